-- About 1.4 GB as pg_dump writes it: prose, identifiers, numbers and bytes that do not compress, in rows of many sizes.
CREATE DATABASE bench;
\connect bench
SELECT setseed(0.1);
CREATE TABLE words AS SELECT i AS id, substr(translate(md5(i::text), '0123456789', 'ghijklmnop'), 1, 2 + i % 9) AS word FROM generate_series(0, 4095) i;
CREATE TABLE prose AS
  WITH list AS (SELECT array_agg(word ORDER BY id) AS of FROM words)
  SELECT p AS id, (SELECT string_agg(list.of[1 + (power(random(), 3) * 4095)::int + 0 * g], ' ') FROM generate_series(1, 40) g WHERE p > 0) AS text
  FROM list, generate_series(1, 20000) p;
CREATE TABLE messages (id bigint, author int, sent timestamptz, body text);
INSERT INTO messages SELECT i, (random() * 100000)::int, '2024-01-01'::timestamptz + i * interval '7 seconds', substr(p.text, 1 + (i % 60)::int, 60 + (i * 7 % 160)::int)
  FROM generate_series(1, 3000000::bigint) i JOIN prose p ON p.id = 1 + i * 7919 % 20000;
CREATE TABLE events (id bigint, kind smallint, amount numeric(12, 2), ratio float8, note text);
INSERT INTO events SELECT i, i % 17, (random() * 100000)::numeric(12, 2), random(), CASE WHEN i % 3 = 0 THEN md5(i::text) END FROM generate_series(1, 6000000) i;
CREATE TABLE files (id int, sha bytea, content bytea);
INSERT INTO files SELECT i, sha256(i::text::bytea), (SELECT string_agg(sha256((i * 1000 + j)::text::bytea), '') FROM generate_series(1, 50) j) FROM generate_series(1, 90000) i;
DROP TABLE prose;
ALTER TABLE messages ADD PRIMARY KEY (id);
CREATE INDEX ON messages (author, sent);
ALTER TABLE events ADD PRIMARY KEY (id);
CREATE INDEX ON events (kind, amount);
ALTER TABLE files ADD PRIMARY KEY (id);
ALTER TABLE messages ADD CONSTRAINT has_text CHECK (length(body) > 0);
VACUUM ANALYZE;
CHECKPOINT;
