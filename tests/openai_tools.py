"""Calls tools with OpenAI's own client: openai_tools.py BASE_URL KEY.

Run by tests/openai_client.rs against a model of random weights: a call that is asked for parses whatever
the model thinks of it. Every check is an assertion.
"""

import json
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key=sys.argv[2], max_retries=0)
model = client.models.list().data[0].id
parameters = {
    "type": "object",
    "properties": {"days": {"type": "integer"}, "city": {"type": "string", "maxLength": 6}},
    "required": ["days", "city"],
    "additionalProperties": False,
}
request = {
    "model": model,
    "messages": [{"role": "user", "content": "Ulm?"}],
    "tools": [{"type": "function", "function": {"name": "look_up", "parameters": parameters, "strict": True}}],
    "tool_choice": {"type": "function", "function": {"name": "look_up"}},
    "max_tokens": 64,
}
whole = client.chat.completions.create(**request)
choice = whole.choices[0]
assert choice.finish_reason == "tool_calls" and choice.message.content is None, whole
[call] = choice.message.tool_calls
assert call.type == "function" and call.function.name == "look_up", call
arguments = json.loads(call.function.arguments)
assert list(arguments) == ["days", "city"], "members come in the order of the schema"
assert isinstance(arguments["days"], int) and len(arguments["city"]) <= 6, arguments

chunks = list(client.chat.completions.create(**request, stream=True))
parts = [part for chunk in chunks for choice in chunk.choices for part in choice.delta.tool_calls or []]
assert "".join(part.function.arguments or "" for part in parts) == call.function.arguments, parts
assert chunks[-1].choices[0].finish_reason == "tool_calls"

# The call and its answer go back as the client gives them.
again = {**request, "tool_choice": "none", "max_tokens": 8}
before = client.chat.completions.create(**again)
messages = request["messages"] + [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
after = client.chat.completions.create(**{**again, "messages": messages})
assert after.usage.prompt_tokens > before.usage.prompt_tokens + 10, (before.usage, after.usage)
assert after.choices[0].message.tool_calls is None, after
print("openai", openai.__version__, "calls tools")
