-- capture_table() and uncapture_table().
SET client_min_messages = error;
CREATE EXTENSION eventstore;
RESET client_min_messages;

-- Triggers that call capture().
CREATE VIEW captures AS
	SELECT tgrelid::regclass AS captured, tgname AS trigger, tgoldtable AS old, tgnewtable AS new,
			replace(encode(tgargs, 'escape'), '\000', ' | ') AS arguments, tgenabled AS enabled
		FROM pg_trigger WHERE tgfoid = 'eventstore.capture'::regproc ORDER BY 1, 2;

CREATE TABLE orders (id integer PRIMARY KEY, state text, total numeric, "a,b" text, "c""d" text);

-- The defaults.
SELECT eventstore.capture_table('orders');
TABLE captures;
CREATE TEMP TABLE before AS SELECT oid, xmin::text AS version FROM pg_trigger WHERE tgfoid = 'eventstore.capture'::regproc;
-- The same again: nothing is touched.
SELECT eventstore.capture_table('orders');
SELECT eventstore.capture_table('orders', NULL, '{table}.{op}', '{delete,update,insert,insert}', NULL, NULL, true);
SELECT count(*) FROM pg_trigger t JOIN before b ON b.oid = t.oid AND version = t.xmin::text;
-- Another definition replaces it, all of it.
SELECT eventstore.capture_table('orders', key => 'order-{id}', type => 'order.{op}', ops => '{insert,update}',
	columns => '{id,state,"a,b","c\"d"}', changed => '{state,"c\"d"}', old => false);
TABLE captures;
INSERT INTO orders VALUES (1, 'placed', 10, 'ab', 'cd');
UPDATE orders SET total = 11;
UPDATE orders SET state = 'paid', "c""d" = 'dc';
DELETE FROM orders;
SELECT type, key, payload FROM eventstore.event ORDER BY id;
SELECT eventstore.capture_table('orders', ops => '{update}', old => false);
TABLE captures;
-- DROP COLUMN is refused where a column is named, and not where it is not.
ALTER TABLE orders DROP COLUMN "a,b";
SELECT eventstore.capture_table('orders', key => 'order-{id}', type => 'order.{state}', columns => '{total}', changed => '{"c\"d"}');
ALTER TABLE orders DROP COLUMN id;
ALTER TABLE orders DROP COLUMN state;
ALTER TABLE orders DROP COLUMN total;
ALTER TABLE orders DROP COLUMN "c""d";
SELECT eventstore.capture_table('orders');
ALTER TABLE orders DROP COLUMN total;
INSERT INTO orders VALUES (2, 'without total', 'cd');
SELECT type, key, payload FROM eventstore.event ORDER BY id DESC LIMIT 1;
-- Other triggers stay.
CREATE TRIGGER mine AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION eventstore.capture('type=mine');
SELECT eventstore.uncapture_table('orders');
TABLE captures;
SELECT eventstore.uncapture_table('orders');
DROP TRIGGER mine ON orders;
-- One that merely has our name is not ours.
CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER eventstore_capture_update AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION mine();
SELECT eventstore.capture_table('orders');
SELECT eventstore.uncapture_table('orders');
TABLE captures;
DROP TRIGGER eventstore_capture_update ON orders;
-- One that has our name and does something else with capture() is replaced.
CREATE TRIGGER eventstore_capture_update AFTER UPDATE OF state ON orders
	FOR EACH ROW WHEN (false) EXECUTE FUNCTION eventstore.capture();
SELECT eventstore.capture_table('orders', ops => '{update}');
TABLE captures;
CREATE OR REPLACE TRIGGER eventstore_capture_update AFTER UPDATE ON orders REFERENCING OLD TABLE AS o NEW TABLE AS n
	FOR EACH ROW EXECUTE FUNCTION eventstore.capture();
SELECT eventstore.capture_table('orders', ops => '{update}');
TABLE captures;

-- Names of all sorts; a search_path that leads elsewhere.
CREATE SCHEMA "My ""Shop""";
CREATE TABLE "My ""Shop"""."Or'ders; --" (id integer PRIMARY KEY, "Größe" text);
CREATE SCHEMA trap;
CREATE FUNCTION trap.capture() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
SET search_path = trap, pg_catalog;
SELECT eventstore.capture_table('"My ""Shop"""."Or''ders; --"', key => 'o''s\{Größe}');
INSERT INTO "My ""Shop"""."Or'ders; --" VALUES (1, 'xl');
RESET search_path;
TABLE captures;
SELECT type, key, payload FROM eventstore.event ORDER BY id DESC LIMIT 1;
DROP SCHEMA "My ""Shop""" CASCADE;
DROP SCHEMA trap CASCADE;

-- Nothing is left behind by an error, or after ROLLBACK.
BEGIN;
SELECT eventstore.capture_table('orders', type => 'rolled.back');
ROLLBACK;
TABLE captures;

-- Notices: no key; a child.
CREATE TABLE keyless (id integer);
SELECT eventstore.capture_table('keyless');
SELECT eventstore.capture_table('keyless');
SELECT eventstore.capture_table('keyless', key => '{table}-{id}');
CREATE TABLE child () INHERITS (keyless);
SELECT eventstore.capture_table('child', key => '{id}');
DROP TABLE keyless CASCADE;

-- What cannot be captured.
SELECT eventstore.capture_table(NULL);
\echo :SQLSTATE
SELECT eventstore.capture_table('nowhere');
SELECT eventstore.capture_table(4294967295::oid::regclass);
\echo :SQLSTATE
CREATE VIEW a_view AS SELECT 1 AS id;
CREATE MATERIALIZED VIEW a_matview AS SELECT 1 AS id;
CREATE SEQUENCE a_sequence;
SELECT eventstore.capture_table('a_view');
\echo :SQLSTATE
SELECT eventstore.capture_table('a_matview');
SELECT eventstore.capture_table('a_sequence');
SELECT eventstore.capture_table('orders_pkey');
SELECT eventstore.capture_table('eventstore.event');
\echo :SQLSTATE
SELECT eventstore.capture_table('eventstore_internal.segment');
CREATE TABLE root (id integer PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE branch PARTITION OF root FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (id);
CREATE TABLE leaf PARTITION OF branch FOR VALUES FROM (0) TO (10);
SELECT eventstore.capture_table('leaf');
\echo :SQLSTATE
SELECT eventstore.capture_table('branch');
DROP TABLE root;

-- Wrong definitions.
SELECT eventstore.capture_table('orders', type => NULL);
SELECT eventstore.capture_table('orders', type => '');
\echo :SQLSTATE
SELECT eventstore.capture_table('orders', type => 'order canceled');
SELECT eventstore.capture_table('orders', type => 'order.{stat}');
SELECT eventstore.capture_table('orders', type => repeat('x', 201));
SELECT eventstore.capture_table('orders', key => '');
SELECT eventstore.capture_table('orders', key => 'order-{ID}');
\echo :SQLSTATE
SELECT eventstore.capture_table('orders', key => 'order-{id');
SELECT eventstore.capture_table('orders', key => 'order-id}');
SELECT eventstore.capture_table('orders', key => 'order-{}');
SELECT eventstore.capture_table('orders', ops => NULL);
SELECT eventstore.capture_table('orders', ops => '{}');
SELECT eventstore.capture_table('orders', ops => '{insert,NULL}');
SELECT eventstore.capture_table('orders', ops => '{insert,truncate}');
\echo :SQLSTATE
SELECT eventstore.capture_table('orders', columns => '{}');
SELECT eventstore.capture_table('orders', columns => '{id,NULL}');
SELECT eventstore.capture_table('orders', columns => '{id,nothing}');
SELECT eventstore.capture_table('orders', columns => '{id,""}');
SELECT eventstore.capture_table('orders', changed => '{nothing}');
SELECT eventstore.capture_table('orders', changed => '{state}', ops => '{insert,delete}');
SELECT eventstore.capture_table('orders', old => NULL);
SELECT eventstore.uncapture_table(NULL);
TABLE captures;

-- Rights: those of CREATE TRIGGER and DROP TRIGGER.
CREATE ROLE regress_capture_none;
CREATE ROLE regress_capture_trigger;
GRANT TRIGGER ON orders TO regress_capture_trigger;
GRANT EXECUTE ON FUNCTION eventstore.capture(), eventstore.uncapture_table(regclass),
	eventstore.capture_table(regclass, text, text, text[], text[], text[], boolean)
	TO regress_capture_none, regress_capture_trigger;
SET ROLE regress_capture_none;
SELECT eventstore.capture_table('orders');
\echo :SQLSTATE
SELECT eventstore.uncapture_table('orders');
SET ROLE regress_capture_trigger;
SELECT eventstore.capture_table('orders', ops => '{insert,update}');
SELECT eventstore.capture_table('orders', ops => '{insert,update}', old => false);
SELECT eventstore.capture_table('orders', ops => '{update}', old => false);
RESET ROLE;
TABLE captures;
-- Whoever may write the table is captured.
GRANT INSERT ON orders TO regress_capture_none;
SET ROLE regress_capture_none;
INSERT INTO orders VALUES (3, 'by another', NULL);
RESET ROLE;
SELECT type, key FROM eventstore.event ORDER BY id DESC LIMIT 1;
DROP OWNED BY regress_capture_none, regress_capture_trigger;
DROP ROLE regress_capture_none, regress_capture_trigger;

DROP VIEW captures, a_view;
DROP TABLE before;
DROP MATERIALIZED VIEW a_matview;
DROP SEQUENCE a_sequence;
DROP TABLE orders;
DROP FUNCTION mine;
DROP EXTENSION eventstore CASCADE;
