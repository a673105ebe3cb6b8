-- A believable database of a messaging service for clinics: what the demo protects.
CREATE ROLE messaging LOGIN PASSWORD 'sample';
CREATE ROLE reporting NOLOGIN;
CREATE DATABASE messages OWNER messaging;
ALTER DATABASE messages SET timezone TO 'UTC';
GRANT CONNECT ON DATABASE messages TO reporting;
\connect messages
SET client_min_messages = warning;
SELECT setseed(0.4711);
CREATE SCHEMA clinic AUTHORIZATION messaging;
SET ROLE messaging;
SET search_path = clinic;

CREATE TYPE channel AS ENUM ('app', 'sms', 'email');
CREATE DOMAIN phone AS text CHECK (VALUE ~ '^\+[0-9]{6,15}$');
CREATE TABLE clinics (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, opened date);
CREATE TABLE patients (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, clinic int NOT NULL REFERENCES clinics, name text NOT NULL, phone phone,
  born date, notes jsonb NOT NULL DEFAULT '{}', search text GENERATED ALWAYS AS (lower(name)) STORED);
CREATE TABLE messages (
  id bigserial, patient bigint NOT NULL, sent timestamptz NOT NULL, via channel NOT NULL, body text NOT NULL, token bytea NOT NULL
) PARTITION BY RANGE (sent);
CREATE TABLE messages_2025 PARTITION OF messages FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE messages_2026 PARTITION OF messages FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');

INSERT INTO clinics (name, opened) SELECT 'Clinic ' || i, '2001-01-01'::date + i * 37 FROM generate_series(1, 40) i;
INSERT INTO patients (clinic, name, phone, born, notes)
  SELECT 1 + i % 40,
    (ARRAY['Ada','Émile','Jürgen','Mária','Nguyễn','Oluwaseun','Siân','Zoë'])[1 + i % 8] || ' ' || initcap(substr(md5(i::text), 1, 7)),
    '+49' || (1000000 + i), '1930-01-01'::date + (random() * 30000)::int,
    jsonb_build_object('allergies', ARRAY[md5((i % 50)::text)], 'priority', i % 3)
  FROM generate_series(1, 20000) i;
INSERT INTO messages (patient, sent, via, body, token)
  SELECT 1 + (random() * 19999)::int, '2025-01-01'::timestamptz + i * interval '4 minutes',
    (ARRAY['app','sms','email']::channel[])[1 + i % 3],
    'Dear patient, your appointment ' || substr(md5(i::text), 1, 8) || ' is on day ' || i % 365 || '. ' || repeat(md5((i * 7)::text) || ' ', 1 + i % 4),
    decode(md5(i::text) || md5((-i)::text), 'hex')
  FROM generate_series(1, 200000) i;
CREATE INDEX ON messages (patient, sent);
ALTER TABLE messages ADD FOREIGN KEY (patient) REFERENCES patients;
CREATE MATERIALIZED VIEW per_clinic AS SELECT clinic, count(*) AS patients FROM patients GROUP BY clinic;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.name := trim(NEW.name); RETURN NEW; END';
CREATE TRIGGER tidy_name BEFORE INSERT OR UPDATE ON patients FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE patients ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_clinic ON patients USING (clinic = current_setting('app.clinic', true)::int);
GRANT SELECT ON per_clinic TO reporting;
COMMENT ON TABLE patients IS 'People in treatment';
RESET ROLE;
SELECT count(lo_from_bytea(0, decode(repeat(md5(i::text), 500), 'hex'))) AS scans FROM generate_series(1, 20) i \g /dev/null
