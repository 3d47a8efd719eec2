"""Talks to a running server with OpenAI's own client: openai_client.py BASE_URL KEY.

Run by tests/openai_client.rs; every check is an assertion.
"""

import json
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key=sys.argv[2], max_retries=0)
models = [model.id for model in client.models.list()]
assert models == ["nano"], models
assert client.models.retrieve("nano").id == "nano"

messages = [
    {"role": "system", "content": "You help with phone bills."},
    {"role": "user", "content": "My bill is too high."},
]
whole = client.chat.completions.create(model="nano", messages=messages, max_tokens=40)
content = whole.choices[0].message.content
assert content and whole.choices[0].finish_reason in ("stop", "length"), whole
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
assert whole.usage.prompt_tokens_details.cached_tokens == 0
assert whole.usage.model_extra["diffusion"]["steps"] > 0

# The answer goes back as the client gives it.
messages.append(whole.choices[0].message)
messages.append({"role": "user", "content": "Thank you."})
again = client.chat.completions.create(model="nano", messages=messages, max_completion_tokens=10, n=2, temperature=1)
assert [choice.index for choice in again.choices] == [0, 1]

chunks = list(
    client.chat.completions.create(
        model="nano",
        messages=messages[:2],
        max_tokens=40,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"diffusion": {"stream_tentative": True}},
    )
)
assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == content
assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage, chunks[-1]
assert chunks[0].choices[0].delta.role == "assistant"
assert any(choice.model_extra.get("diffusion") for chunk in chunks for choice in chunk.choices)

with client.chat.completions.stream(model="nano", messages=messages[:2], max_tokens=40) as stream:
    assert stream.get_final_completion().choices[0].message.content == content

text = client.completions.create(model="nano", prompt="Dear ", suffix=", thank you.", max_tokens=4, seed=1)
assert text.object == "text_completion" and isinstance(text.choices[0].text, str)
parts = client.completions.create(model="nano", prompt="Dear ", max_tokens=20, stream=True)
assert [part.choices[0].finish_reason for part in parts][-1] in ("stop", "length")


def refused(kind, param, code, **request):
    try:
        client.chat.completions.create(**{"model": "nano", "messages": messages[:2], **request})
    except kind as error:
        assert (error.param, error.code) == (param, code), error
    else:
        raise AssertionError(f"{request} was not refused")


refused(openai.NotFoundError, "model", "model_not_found", model="gpt-4")
refused(openai.BadRequestError, "temperature", "invalid_value", temperature=3)
refused(openai.BadRequestError, "n", "invalid_value", n=9)
refused(openai.BadRequestError, "tools", "unsupported_parameter", tools=[{"type": "function", "function": {"name": "f"}}])
schema = {"type": "object", "properties": {"mood": {"enum": ["calm", "angry"]}, "calls": {"type": "integer"}}, "required": ["mood", "calls"], "additionalProperties": False}
answer = client.chat.completions.create(model="nano", max_tokens=32, messages=[{"role": "user", "content": "I called twice!"}],
    response_format={"type": "json_schema", "json_schema": {"name": "mood", "strict": True, "schema": schema}})
found = json.loads(answer.choices[0].message.content)
assert found["mood"] in ("calm", "angry") and isinstance(found["calls"], int) and len(found) == 2, found
try:
    openai.OpenAI(base_url=sys.argv[1], api_key="wrong", max_retries=0).models.list()
except openai.AuthenticationError as error:
    assert error.code == "invalid_api_key", error
else:
    raise AssertionError("a wrong key was let in")
print("openai", openai.__version__, "is served")
