-- The text of a segment in lower case, for searching calls by what was said.

ALTER TABLE events ADD COLUMN folded TEXT;
UPDATE events SET folded = LOWER(json_extract(body, '$.text')) WHERE type = 'segment';
