-- Captured values: images are what to_jsonb() makes of the row, for all types;
-- keys are the same under all settings.
SET client_min_messages = error;
CREATE EXTENSION eventstore;
RESET client_min_messages;

CREATE TYPE mood AS ENUM ('sad', 'so so', 'happy');
CREATE TYPE pair AS (a integer, b text);
CREATE TYPE cased AS ENUM ('x');
CREATE FUNCTION cased_to_json(cased) RETURNS json LANGUAGE sql IMMUTABLE AS $$ SELECT '{"cast": true}'::json $$;
CREATE CAST (cased AS json) WITH FUNCTION cased_to_json(cased);
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN pairs AS pair[];
CREATE DOMAIN document AS jsonb;

CREATE TABLE kinds (
	dropped text,
	id integer PRIMARY KEY,
	a_bool boolean, an_int2 smallint, an_int8 bigint, a_numeric numeric, a_float4 real, a_float8 double precision,
	a_text text, a_varchar varchar(9), a_char char(5), a_name name, "a quoted"" \ name" text,
	a_date date, a_timestamp timestamp, a_timestamptz timestamptz, a_time time, a_timetz timetz, an_interval interval,
	a_json json, a_jsonb jsonb, a_document document, a_bytea bytea, a_uuid uuid, a_money money, an_oid oid,
	an_inet inet, a_bit bit varying, a_point point, a_range int4range, a_multirange datemultirange, a_tsvector tsvector,
	a_mood mood, a_pair pair, a_cased cased, a_positive positive, some_pairs pairs, some_moods mood[],
	some_ints integer[], a_matrix numeric[], some_times timestamptz[], a_class regclass, an_xid8 xid8,
	generated integer GENERATED ALWAYS AS (id * 2) STORED,
	serial integer GENERATED ALWAYS AS IDENTITY
);
ALTER TABLE kinds DROP COLUMN dropped;
CREATE TRIGGER capture AFTER INSERT OR UPDATE OR DELETE ON kinds
	FOR EACH ROW EXECUTE FUNCTION eventstore.capture();
CREATE TRIGGER capture_statement AFTER INSERT ON kinds REFERENCING NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION eventstore.capture();

INSERT INTO kinds VALUES (1);
INSERT INTO kinds VALUES (2,
	true, -1, 9223372036854775807, 1234567890.12345000, 1.5, 1e300,
	'text "quoted" \ ü', 'varchar', 'c', 'name', E'tab\there',
	'2024-02-29', '2024-02-29 12:34:56.789', '2024-02-29 12:34:56.789+02', '01:02', '01:02+03', '1 year 2 days 03:04',
	'{"b": 1, "a": [1, null]}', '{"b": 1, "a": [1.50, {"x": "y"}, null, true]}', '[1]', '\xdeadbeef',
	'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '12.34', 42,
	'10.0.0.1/8', '101', '(1,2)', '[1,5)', '{[2024-01-01,2024-02-01)}', 'fat cat',
	'so so', (1, 'b'), 'x', 3, ARRAY[(1, 'x'), NULL]::pair[], '{sad,happy}',
	'{1,NULL,3}', '{{1.5,2},{3,4}}', '{2024-02-29 00:00+00,infinity}', 'kinds', '12345678901');
INSERT INTO kinds VALUES (3,
	false, 0, 0, 'NaN', 'NaN', '-Infinity',
	'', '', '', '', '',
	'infinity', '-infinity', 'infinity', '24:00', '00:00+00', '-1 day',
	'1', '1', '"scalar"', '', '00000000-0000-0000-0000-000000000000', 0, 0,
	'::1', '', '(0,0)', 'empty', '{}', '',
	'sad', (NULL, NULL), NULL, NULL, '{}', '{}', '{}', '{}', '{}', NULL, '0');
INSERT INTO kinds (id, a_numeric, a_jsonb, a_json, a_float8, a_date, a_text) VALUES
	(4, 'Infinity', '"s"', '"s"', 0.1, '0044-03-15 BC', repeat('long ', 100000)),
	(5, '-Infinity', 'null', 'null', 1e-7, NULL, NULL),
	(6, 0, 'true', '[]', -0.0, NULL, NULL), (7, 1e-20, '-12.50', '{}', 'Infinity', NULL, NULL);

-- The row as captured is the row as to_jsonb() sees it.
SELECT k.id, count(*), bool_and(payload -> 'new' = to_jsonb(k)) AS same,
		bool_and((payload -> 'new')::text = to_jsonb(k)::text) AS same_text
	FROM kinds k JOIN eventstore.event ON (payload -> 'new' ->> 'id')::int = k.id
	GROUP BY 1 ORDER BY 1;
-- Found by name too, which needs the names in jsonb's order.
SELECT count(*) FROM eventstore.event, kinds k, jsonb_each(to_jsonb(k)) AS member
	WHERE (payload -> 'new' ->> 'id')::int = k.id AND payload -> 'new' -> member.key = member.value;
SELECT count(*) * 2 FROM kinds k, jsonb_each(to_jsonb(k));
TRUNCATE eventstore.event;

-- Both images of an update.
CREATE TEMP TABLE was AS SELECT id, to_jsonb(kinds) AS image FROM kinds;
UPDATE kinds SET a_text = 'other', a_numeric = a_numeric + 1;
SELECT count(*) FROM eventstore.event, was, kinds k
	WHERE was.id = k.id AND (payload -> 'new' ->> 'id')::int = k.id
	  AND payload = jsonb_build_object('op', 'update', 'schema', 'public', 'table', 'kinds', 'new', to_jsonb(k), 'old', was.image);
TRUNCATE eventstore.event;

-- More members than one stride of jsonb's entries; none at all.
DO $$
BEGIN
	EXECUTE 'CREATE TABLE wide (id integer PRIMARY KEY, ' ||
		(SELECT string_agg(format('c%s %s', n, (ARRAY['text', 'integer', 'boolean', 'jsonb'])[1 + n % 4]), ', ')
		 FROM generate_series(1, 300) n) || ')';
END $$;
CREATE TABLE empty ();
SELECT eventstore.capture_table('wide');
SELECT eventstore.capture_table('empty');
INSERT INTO wide (id, c1, c4, c31, c32, c33, c63, c64, c100, c299, c300)
	VALUES (1, 17, 'four', '{"a": [1]}', 'x', 2147483647, '[]', '', 'hundred', '1.5', 'last');
INSERT INTO empty DEFAULT VALUES;
SELECT payload -> 'new' = to_jsonb(wide) AS same, payload -> 'new' ->> 'c300' AS last
	FROM eventstore.event, wide WHERE type = 'wide.insert';
SELECT payload FROM eventstore.event WHERE type = 'empty.insert';
TRUNCATE eventstore.event;
DROP TABLE wide, empty;

-- Keys of all types, the same whatever the session has set.
CREATE FUNCTION keys(target text) RETURNS TABLE (key text) LANGUAGE plpgsql AS $$
BEGIN
	TRUNCATE eventstore.event;
	EXECUTE format('UPDATE %I.kinds SET id = id WHERE id IN (2, 3)', target);
	RETURN QUERY SELECT e.key FROM eventstore.event e ORDER BY id;
END $$;
DROP TRIGGER capture ON kinds;
CREATE TRIGGER a AFTER UPDATE ON kinds FOR EACH ROW EXECUTE FUNCTION
	eventstore.capture('columns=id', 'key={a_bool} {an_int2} {an_int8} {a_numeric} {a_float4} {a_float8} {a_text} {a_char}|{a_name}');
CREATE TRIGGER b AFTER UPDATE ON kinds FOR EACH ROW EXECUTE FUNCTION
	eventstore.capture('columns=id', 'key={a_date} {a_timestamp} {a_timestamptz} {a_time} {a_timetz} {an_interval}');
CREATE TRIGGER c AFTER UPDATE ON kinds FOR EACH ROW EXECUTE FUNCTION
	eventstore.capture('columns=id', 'key={a_json} {a_jsonb} {a_bytea} {a_uuid} {an_oid} {an_inet} {a_point} {a_range} {a_multirange}');
CREATE TRIGGER d AFTER UPDATE ON kinds FOR EACH ROW EXECUTE FUNCTION
	eventstore.capture('columns=id', 'key={a_mood} {a_pair} {a_positive} {some_moods} {some_times} {a_class} {an_xid8} {generated}');
SELECT * FROM keys('public');
CREATE TEMP TABLE first_keys AS SELECT key, row_number() OVER () FROM keys('public');
SET datestyle = 'German';
SET timezone = 'Asia/Tokyo';
SET intervalstyle = 'iso_8601';
SET extra_float_digits = -10;
SET bytea_output = 'escape';
SET search_path = pg_catalog;
SELECT count(*) AS same FROM (SELECT key, row_number() OVER () FROM public.keys('public')) k
	JOIN pg_temp.first_keys USING (key, row_number);
SHOW datestyle;
SHOW timezone;
RESET datestyle;
RESET timezone;
RESET intervalstyle;
RESET extra_float_digits;
RESET bytea_output;
RESET search_path;

-- A cast to json that comes later is heeded, as to_jsonb() heeds it.
DROP TRIGGER a ON kinds;
DROP TRIGGER b ON kinds;
DROP TRIGGER c ON kinds;
DROP TRIGGER d ON kinds;
TRUNCATE eventstore.event;
CREATE TRIGGER capture AFTER UPDATE ON kinds
	FOR EACH ROW EXECUTE FUNCTION eventstore.capture('columns=a_mood', 'old=false');
UPDATE kinds SET id = id WHERE id = 2;
CREATE FUNCTION mood_to_json(mood) RETURNS json LANGUAGE sql IMMUTABLE AS $$ SELECT '"cast"'::json $$;
CREATE CAST (mood AS json) WITH FUNCTION mood_to_json(mood);
UPDATE kinds SET id = id WHERE id = 2;
SELECT payload -> 'new' AS new FROM eventstore.event ORDER BY id;
TRUNCATE eventstore.event;

-- changed= for types of all sorts: toasted, without equality, with another collation.
CREATE COLLATION ignore_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE compared (id integer PRIMARY KEY, big text, a_point point, a_json json, folded text COLLATE ignore_case, ints integer[], a_pair pair);
ALTER TABLE compared ALTER COLUMN big SET STORAGE EXTERNAL;
SELECT eventstore.capture_table('compared', columns => '{id}', type => 'changed',
	changed => '{big,a_point,a_json,folded,ints,a_pair}', ops => '{update}', old => false);
INSERT INTO compared VALUES (1, repeat('x', 10000), '(1,2)', '{"a": 1}', 'Ann', '{1,2}', (1, 'b'));
UPDATE compared SET big = big, id = 1;
UPDATE compared SET big = repeat('x', 10000);
UPDATE compared SET a_point = '(1,2)', a_json = '{"a": 1}', ints = '{1,2}', a_pair = (1, 'b');
UPDATE compared SET folded = 'ANN';
SELECT count(*) AS unchanged FROM eventstore.event;
UPDATE compared SET big = repeat('x', 9999) || 'y';
UPDATE compared SET a_point = '(1,3)';
UPDATE compared SET a_json = '{"a":  1}';
UPDATE compared SET ints = NULL;
UPDATE compared SET a_pair = (1, NULL);
UPDATE compared SET folded = 'Bob';
SELECT count(*) AS changed FROM eventstore.event;

DROP TABLE kinds, compared, was, first_keys;
DROP FUNCTION keys;
DROP CAST (mood AS json);
DROP CAST (cased AS json);
DROP FUNCTION mood_to_json, cased_to_json;
DROP COLLATION ignore_case;
DROP DOMAIN pairs, positive, document;
DROP TYPE mood, pair, cased;
DROP EXTENSION eventstore CASCADE;
