-- emit(), emit_once(), emit_batch(): what they write, what they refuse
SET client_min_messages = error;
CREATE EXTENSION eventstore;
RESET client_min_messages;
SET eventstore.partition_size = 1000;

-- Runs a statement and shows how it went; an error is undone.
CREATE FUNCTION outcome(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message text; detail text; hint text; context text;
BEGIN
	EXECUTE statement;
	RETURN statement || E'\n    ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT, context = PG_EXCEPTION_CONTEXT;
	RETURN concat_ws(E'\n    ', statement, SQLSTATE || ' ' || message,
					 'detail: ' || nullif(detail, ''), 'hint: ' || nullif(hint, ''),
					 'context: ' || substring(context FROM '^event \d+ of the batch'));
END $$;

--
-- What is written
--
SELECT eventstore.emit('order.created');
SELECT eventstore.emit('order.created', '{"n": 1}', 'orders-1', '{"user": "ann"}');
SELECT eventstore.emit('order.created', key => 'orders-2', headers => '{"user": "bob"}');
SELECT eventstore.emit('a', '"payloads need not be objects"', NULL);
SELECT id, type, key, payload, headers FROM eventstore.event ORDER BY id;

-- the longest of each, and every character of a type
SELECT eventstore.emit(repeat('x', 200), '{}', repeat('k', 1000));
SELECT eventstore.emit('azAZ09_.:/-', '{}', 'Schlüssel');
SELECT length(type), length(key) FROM eventstore.event WHERE id = 5;

-- xid is the transaction's, also in savepoints; emitted_at is the clock's time
BEGIN;
SELECT eventstore.emit('outer');
SAVEPOINT s;
SELECT eventstore.emit('rolled.back');
ROLLBACK TO s;
SAVEPOINT s;
SELECT eventstore.emit('inner');
RELEASE s;
SELECT type, xid = pg_current_xact_id() AS my_xid, emitted_at > now() AS after_start
FROM eventstore.event WHERE id > 6 ORDER BY id;
COMMIT;
BEGIN;
SELECT eventstore.emit('rolled.back');
ROLLBACK;
SELECT count(*) FROM eventstore.event WHERE type = 'rolled.back';

-- rows that did not come through emit() have no xid
INSERT INTO eventstore.event (id, xid, emitted_at, type, payload, headers)
VALUES (0, '3', now(), 'restored', '{}', '{}') RETURNING xid IS NULL AS no_xid;

-- drivers ask lastval() for the key of the row they inserted
CREATE TEMPORARY SEQUENCE s START 77;
SELECT nextval('s');
SELECT eventstore.emit('a');
SELECT eventstore.emit_once('once-lastval', 'a');
SELECT count(*) FROM eventstore.emit_batch('[{"type": "a"}, {"type": "a"}]');
SELECT lastval();

-- names are ours whatever the search_path
CREATE SCHEMA hostile;
CREATE TABLE hostile.idempotency (key text, id bigint);
CREATE FUNCTION hostile.always(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.always);
SET search_path = hostile, eventstore_internal, pg_catalog;
SELECT eventstore.emit_once('hostile-1', 'a') AS first, eventstore.emit_once('hostile-2', 'a') AS second \gset
SELECT :second - :first AS events, eventstore.emit_once('hostile-2', 'b') - :second AS repeated;
RESET search_path;
SET client_min_messages = error;
DROP SCHEMA hostile CASCADE;
RESET client_min_messages;

--
-- emit_once
--
SELECT eventstore.emit_once('pay-1', 'paid', '{"n": 1}', 'orders-1') AS first \gset
SELECT eventstore.emit_once('pay-1', 'paid', '{"n": 2}', 'orders-1') = :first AS same;
SELECT eventstore.emit_once('pay-2', 'paid', '{"n": 3}', 'orders-1') = :first AS same;
BEGIN;
SELECT eventstore.emit_once('pay-3', 'paid', '{"n": 4}') > 0 AS written;
ROLLBACK;
SELECT eventstore.emit_once('pay-3', 'paid', '{"n": 5}') > 0 AS written;
SELECT payload, key FROM eventstore.event WHERE type = 'paid' ORDER BY id;

--
-- emit_batch
--
SELECT eventstore.emit_batch('[
	{"type": "b.first", "payload": {"n": 1}, "key": "k", "headers": {"h": true}},
	{"type": "b.second", "key": null},
	{"payload": [1, 2], "type": "b.third"},
	{"payload": null, "type": "b.fourth"}]') - (SELECT max(id) FROM eventstore.event) AS next;
SELECT type, key, payload, headers FROM eventstore.event WHERE type LIKE 'b.%' ORDER BY id;
SELECT * FROM eventstore.emit_batch('[]');

-- one call, several partitions
SELECT count(*), max(id) - min(id) AS width
FROM eventstore.emit_batch((SELECT jsonb_agg(jsonb_build_object('type', 'many', 'payload', n))
							FROM generate_series(1, 3000) n)) id;
SELECT count(*), count(DISTINCT tableoid) AS partitions, bool_and(payload::int = n) AS in_order
FROM (SELECT payload, tableoid, row_number() OVER (ORDER BY id) AS n
	  FROM eventstore.event WHERE type = 'many') e;
DELETE FROM eventstore.event WHERE type = 'many';

--
-- eventstore.context
--
BEGIN;
SET LOCAL eventstore.context = ' {"user": "ann", "trace": "t1"}';
SELECT eventstore.emit('c.plain') > 0;
SELECT eventstore.emit('c.overridden', headers => '{"user": "bob", "h": 1}') > 0;
SELECT eventstore.emit_once('c', 'c.once') > 0;
SELECT count(*) FROM eventstore.emit_batch('[{"type": "c.batch"}, {"type": "c.batch", "headers": {"trace": null}}]');
SET LOCAL eventstore.context = '{"user": "cyd"}';
SELECT eventstore.emit('c.changed') > 0;
SET LOCAL eventstore.context = '  ';
SELECT eventstore.emit('c.blank') > 0;
SET LOCAL eventstore.context = '{}';
SELECT eventstore.emit('c.empty', headers => '{"h": 1}') > 0;
COMMIT;
SELECT eventstore.emit('c.after') > 0;
SELECT type, headers FROM eventstore.event WHERE type LIKE 'c.%' ORDER BY id;

--
-- What is refused
--
\pset format unaligned
\pset tuples_only on
\set ECHO none
SELECT count(*) AS before FROM eventstore.event \gset

SELECT outcome(s) FROM (VALUES
	($$SELECT eventstore.emit(NULL)$$),
	($$SELECT eventstore.emit('')$$),
	($$SELECT eventstore.emit('order canceled')$$),
	($$SELECT eventstore.emit('order.*')$$),
	($$SELECT eventstore.emit('größe')$$),
	($$SELECT eventstore.emit(repeat('x', 201))$$),
	($$SELECT eventstore.emit('x' || repeat('ü', 200))$$),
	($$SELECT eventstore.emit('a', NULL)$$),
	($$SELECT eventstore.emit('a', 'no json')$$),
	($$SELECT eventstore.emit('a', '{}', '')$$),
	($$SELECT eventstore.emit('a', '{}', repeat('k', 1001))$$),
	($$SELECT eventstore.emit('a', '{}', 'x' || repeat('ü', 1000))$$),
	($$SELECT eventstore.emit('a', '{}', '{"user": "ann"}')$$),
	($$SELECT eventstore.emit('a', '{}', '{x' || repeat('ü', 100))$$),
	($$SELECT eventstore.emit('a', headers => NULL)$$),
	($$SELECT eventstore.emit('a', headers => '[]')$$),
	($$SELECT eventstore.emit('a', headers => '"text"')$$),
	($$SELECT eventstore.emit('a', headers => 'null')$$),
	($$SELECT eventstore.emit('a', deliver_at => now())$$)) v (s);

SELECT outcome(s) FROM (VALUES
	($$SELECT eventstore.emit_once(NULL, 'a')$$),
	($$SELECT eventstore.emit_once('', 'a')$$),
	($$SELECT eventstore.emit_once(repeat('k', 1001), 'a')$$),
	($$SELECT eventstore.emit_once('x' || repeat('ü', 1000), 'a')$$),
	($$SELECT eventstore.emit_once('new', NULL)$$),
	($$SELECT eventstore.emit_once('new', 'a b')$$),
	($$SELECT eventstore.emit_once('new', 'a', NULL)$$),
	($$SELECT eventstore.emit_once('new', 'a', '{}', '')$$),
	($$SELECT eventstore.emit_once('new', 'a', '{}', NULL, '1')$$),
	($$SELECT eventstore.emit_once('new', 'a', deliver_at => 'infinity')$$),
	($$SELECT eventstore.emit_once('pay-1', 'a b')$$)) v (s);

SELECT outcome(s) FROM (VALUES
	($$SELECT eventstore.emit_batch(NULL)$$),
	($$SELECT eventstore.emit_batch('{"type": "a"}')$$),
	($$SELECT eventstore.emit_batch('"a"')$$),
	($$SELECT eventstore.emit_batch('1')$$),
	($$SELECT eventstore.emit_batch('[{"type": "a"}, "a"]')$$),
	($$SELECT eventstore.emit_batch('[{"type": "a"}, ["a"]]')$$),
	($$SELECT eventstore.emit_batch('[{"type": "a"}, null]')$$),
	($$SELECT eventstore.emit_batch('[{"type": "a"}, {}]')$$),
	($$SELECT eventstore.emit_batch('[{"type": "a"}, {"payload": {}}]')$$),
	($$SELECT eventstore.emit_batch('[{"type": "a"}, {"type": 1}]')$$),
	($$SELECT eventstore.emit_batch('[{"type": "a"}, {"type": null}]')$$),
	($$SELECT eventstore.emit_batch('[{"type": "a"}, {"type": "b c"}]')$$),
	($$SELECT eventstore.emit_batch('[{"type": "a"}, {"type": "a", "key": 42}]')$$),
	($$SELECT eventstore.emit_batch('[{"type": "a"}, {"type": "a", "key": ""}]')$$),
	($$SELECT eventstore.emit_batch('[{"type": "a"}, {"type": "a", "key": "{}"}]')$$),
	($$SELECT eventstore.emit_batch('[{"type": "a"}, {"type": "a", "headers": []}]')$$),
	($$SELECT eventstore.emit_batch('[{"type": "a"}, {"type": "a", "headers": null}]')$$),
	($$SELECT eventstore.emit_batch('[{"type": "a"}, {"type": "a", "Key": "k"}]')$$),
	($$SELECT eventstore.emit_batch('[{"type": "a"}, {"type": "a", "deliver_at": "tomorrow"}]')$$)) v (s);

SELECT outcome(s) FROM (VALUES
	($$SET eventstore.context = 'ann'$$),
	($$SET eventstore.context = '"ann"'$$),
	($$SET eventstore.context = '[{"user": "ann"}]'$$),
	($$SET eventstore.context = 'null'$$),
	($$SET eventstore.context = '{"user": "ann"'$$),
	($$SET eventstore.context = '{"user": "ann"} {}'$$),
	($$SET eventstore.context = '{"user": "\u0000"}'$$),
	($$SET eventstore.context = '{"user": 1e1000000}'$$)) v (s);

BEGIN READ ONLY;
SELECT outcome(s) FROM (VALUES
	($$SELECT eventstore.emit('a')$$),
	($$SELECT eventstore.emit_once('new', 'a')$$),
	($$SELECT eventstore.emit_batch('[{"type": "a"}]')$$)) v (s);
COMMIT;

SELECT count(*) - :before AS written, count(*) FILTER (WHERE type = 'a b') FROM eventstore.event;
SELECT count(*) FROM eventstore_internal.idempotency WHERE key = 'new';
\set ECHO all

-- a cursor that fails takes the locks with it that it took; emitting takes them again
BEGIN;
SELECT eventstore.emit('a');
ROLLBACK;
BEGIN;
DECLARE c CURSOR FOR SELECT 1 / (2 - i), eventstore.emit('a.cursor') > 0 FROM generate_series(1, 2) i;
FETCH c;
SAVEPOINT s;
FETCH c;
ROLLBACK TO s;
RELEASE s;
SELECT eventstore.emit('a.behind') > 0;
SELECT relation::regclass, mode FROM pg_locks
WHERE pid = pg_backend_pid() AND mode = 'RowExclusiveLock'
	AND relation IN (SELECT oid FROM pg_class WHERE relnamespace = 'eventstore_internal'::regnamespace)
ORDER BY 1;
COMMIT;

-- columns that somebody added are NULL, and must be allowed to be
ALTER TABLE eventstore.event ADD COLUMN region text NOT NULL DEFAULT 'eu';
SELECT outcome($$SELECT eventstore.emit('a.region')$$);
SELECT outcome($$SELECT eventstore.emit_batch('[{"type": "a.region"}, {"type": "a.region"}]')$$);
ALTER TABLE eventstore.event ALTER COLUMN region DROP NOT NULL;
SELECT outcome($$SELECT eventstore.emit('a.region')$$);
SELECT count(*), count(region) FROM eventstore.event WHERE type = 'a.region';
ALTER TABLE eventstore.event DROP COLUMN region;
SELECT outcome($$SELECT eventstore.emit('a.region')$$);
SELECT count(*) FROM eventstore.event WHERE type = 'a.region';

DROP FUNCTION outcome;
DROP SEQUENCE s;
SET client_min_messages = error;
DROP EXTENSION eventstore CASCADE;
