--
-- PostgreSQL database cluster dump
--

\restrict i0aodsibCXnUgp8BtNObLgf6CtI1029m01Ax6zWmeVdilMw5pewPe0c9V8ER0OU

SET default_transaction_read_only = off;

SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;

--
-- Roles
--

CREATE ROLE clerk;
ALTER ROLE clerk WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB LOGIN NOREPLICATION NOBYPASSRLS PASSWORD 'SCRAM-SHA-256$4096:m2ofNyNP8Cd17sHF0EJUCw==$zION5/HR9J8XSnQ3J709RnaRlPG3AyaOKYsvJvAqUNI=:vmw8GbDhl0aj1cGuWldD23BWGY1oL3/NSR4LCxZo6+c=';
COMMENT ON ROLE clerk IS 'it''s; a clerk';
CREATE ROLE "odd ""role";
ALTER ROLE "odd ""role" WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS;
CREATE ROLE postgres;
ALTER ROLE postgres WITH SUPERUSER INHERIT CREATEROLE CREATEDB LOGIN REPLICATION BYPASSRLS;

--
-- User Configurations
--

--
-- User Config "clerk"
--

ALTER ROLE clerk SET search_path TO 'a b', 'public';


--
-- Role memberships
--

GRANT clerk TO "odd ""role" GRANTED BY postgres;


--
-- Role privileges on configuration parameters
--

GRANT SET ON PARAMETER log_min_messages TO clerk;




\unrestrict i0aodsibCXnUgp8BtNObLgf6CtI1029m01Ax6zWmeVdilMw5pewPe0c9V8ER0OU

--
-- PostgreSQL database cluster dump complete
--

