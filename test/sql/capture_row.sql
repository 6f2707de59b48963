-- capture() as a row trigger: operations, images, types and keys.
SET client_min_messages = error;
CREATE EXTENSION eventstore;
RESET client_min_messages;

-- What was emitted since the last look.
CREATE VIEW captured AS
	SELECT type, key, payload, headers FROM eventstore.event ORDER BY id;

CREATE TABLE orders (id integer PRIMARY KEY, state text, total numeric);
CREATE TRIGGER capture AFTER INSERT OR UPDATE OR DELETE ON orders
	FOR EACH ROW EXECUTE FUNCTION eventstore.capture();
SET eventstore.context = '{"user": "ann"}';
INSERT INTO orders VALUES (1, 'placed', 10.50), (2, NULL, NULL);
UPDATE orders SET state = 'paid' WHERE id = 1;
UPDATE orders SET id = 3 WHERE id = 2;
DELETE FROM orders WHERE id = 3;
RESET eventstore.context;
TABLE captured;
-- One event a row, in one transaction, with the xid of the rows.
SELECT count(*), count(DISTINCT xid) FROM eventstore.event;
TRUNCATE eventstore.event;

-- Rolled back is not captured.
BEGIN;
INSERT INTO orders VALUES (4, 'kept', 1);
SAVEPOINT a;
INSERT INTO orders VALUES (5, 'undone', 1);
ROLLBACK TO a;
COMMIT;
SELECT type, key FROM captured;
TRUNCATE eventstore.event;

-- PostgreSQL's own WHEN and UPDATE OF.
DROP TRIGGER capture ON orders;
CREATE TRIGGER capture AFTER UPDATE OF state ON orders
	FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
	EXECUTE FUNCTION eventstore.capture('type=order.{state}', 'key=order-{id}', 'columns=id,state');
UPDATE orders SET total = 2 WHERE id = 1;
UPDATE orders SET state = state WHERE id = 1;
UPDATE orders SET state = 'canceled' WHERE id = 1;
TABLE captured;
TRUNCATE eventstore.event;

-- changed= and old=.
DROP TRIGGER capture ON orders;
CREATE TRIGGER capture AFTER INSERT OR UPDATE OR DELETE ON orders
	FOR EACH ROW EXECUTE FUNCTION eventstore.capture('changed=state, total', 'old=false', 'columns=id');
INSERT INTO orders VALUES (6, NULL, 1);
UPDATE orders SET total = 1.00 WHERE id = 6;	-- equal, though not the same
UPDATE orders SET id = 7 WHERE id = 6;
UPDATE orders SET total = NULL WHERE id = 7;
UPDATE orders SET total = NULL, state = NULL WHERE id = 7;
UPDATE orders SET state = '' WHERE id = 7;
DELETE FROM orders WHERE id = 7;
SELECT type, key, payload FROM captured;
TRUNCATE eventstore.event;

-- An outbox table that exists already.
CREATE TABLE outbox (topic text, aggregate text, body jsonb);
CREATE TRIGGER capture AFTER INSERT ON outbox
	FOR EACH ROW EXECUTE FUNCTION eventstore.capture('payload=body', 'type={topic}', 'key={aggregate}');
INSERT INTO outbox VALUES
	('OrderPlaced', 'order-1', '{"total": 10, "lines": [1, {"a": null}]}'),
	('OrderPlaced', NULL, '"text"'), ('OrderPlaced', '', '1.50'), (NULL, 'a', 'null'),
	('', '{"a": 1}', '[]'), ('bad type, ünderscored!', 'a', NULL);
SELECT type, key, payload FROM captured;
TRUNCATE eventstore.event;

-- Templates: braces, {schema} {table} {op} before columns of that name.
CREATE SCHEMA "My Shop";
CREATE TABLE "My Shop"."Größe" ("table" text, op text, "Größe" text, "a b" text);
CREATE TRIGGER capture AFTER INSERT OR DELETE ON "My Shop"."Größe" FOR EACH ROW
	EXECUTE FUNCTION eventstore.capture('key={{{schema}.{table}}}{{{op}}}/{Größe}/{a b}');
INSERT INTO "My Shop"."Größe" VALUES ('t', 'o', 'weiß', 'x y');
DELETE FROM "My Shop"."Größe";
TABLE captured;
DROP SCHEMA "My Shop" CASCADE;
TRUNCATE eventstore.event;

-- A type of any length, a key of any length; distinct keys stay distinct.
DROP TRIGGER capture ON orders;
CREATE TRIGGER capture AFTER INSERT ON orders
	FOR EACH ROW EXECUTE FUNCTION eventstore.capture('type={state}', 'key={state}', 'columns=id');
INSERT INTO orders SELECT 100 + n, repeat('ü', 600) || n FROM generate_series(1, 2) n;
INSERT INTO orders SELECT 200, repeat('k', 1000);
INSERT INTO orders SELECT 201, repeat('k', 1001);
SELECT length(type), right(type, 3) AS type, octet_length(key), left(key, 3) AS key, right(key, 33) AS hash
	FROM captured;
SELECT count(DISTINCT key) FROM captured;
SELECT right(key, 32) = left(encode(sha256(convert_to(state, 'UTF8')), 'hex'), 32) AS hash_of_all
	FROM captured JOIN orders ON id = (payload -> 'new' ->> 'id')::int WHERE id IN (101, 201);
TRUNCATE eventstore.event;

-- Composite keys, in the key's order; no key; NULL in a key.
CREATE TABLE line (item text, quantity integer, number smallint, order_id bigint,
	PRIMARY KEY (order_id, number) INCLUDE (item));
CREATE TABLE heap (a integer, b text);
CREATE TABLE late (id integer, PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED);
CREATE TRIGGER capture AFTER INSERT ON line FOR EACH ROW EXECUTE FUNCTION eventstore.capture();
CREATE TRIGGER capture AFTER INSERT ON heap FOR EACH ROW EXECUTE FUNCTION eventstore.capture();
CREATE TRIGGER capture2 AFTER INSERT ON heap FOR EACH ROW
	EXECUTE FUNCTION eventstore.capture('type=second', 'key={a}-{b}');
CREATE CONSTRAINT TRIGGER capture AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION eventstore.capture();
BEGIN;
INSERT INTO late VALUES (1);
INSERT INTO line VALUES ('pen', 3, 1, 42);
INSERT INTO heap VALUES (1, 'x'), (1, NULL);
COMMIT;
SELECT type, key FROM captured;
TRUNCATE eventstore.event;

-- Another trigger may change what is captured, and capture() may fire from within.
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.b := upper(NEW.b);
	INSERT INTO line VALUES (NEW.b, 1, NEW.a, 7);
	RETURN NEW;
END $$;
CREATE TRIGGER shout BEFORE INSERT ON heap FOR EACH ROW EXECUTE FUNCTION shout();
INSERT INTO heap VALUES (5, 'loud');
SELECT type, key, payload -> 'new' AS new FROM captured;
TRUNCATE eventstore.event;

-- The plan follows the table: columns and names that change in this session.
DROP TABLE heap, line, late, outbox, orders;
DROP FUNCTION shout;
CREATE TABLE item (gone text, id integer PRIMARY KEY, name text);
CREATE TRIGGER capture AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION eventstore.capture();
INSERT INTO item VALUES ('g', 1, 'a');
ALTER TABLE item DROP COLUMN gone;
INSERT INTO item VALUES (2, 'b');
ALTER TABLE item ADD COLUMN extra integer DEFAULT 7;
INSERT INTO item VALUES (3, 'c');
ALTER TABLE item RENAME COLUMN id TO number;
INSERT INTO item VALUES (4, 'd');
ALTER TABLE item ALTER COLUMN name TYPE varchar(1)[] USING ARRAY[name];
INSERT INTO item VALUES (5, '{e}');
ALTER TABLE item RENAME TO thing;
INSERT INTO thing VALUES (6, '{f}');
CREATE SCHEMA shop;
ALTER TABLE thing SET SCHEMA shop;
INSERT INTO shop.thing VALUES (7, '{g}');
ALTER SCHEMA shop RENAME TO store;
INSERT INTO store.thing VALUES (8, '{h}');
ALTER TABLE store.thing DROP CONSTRAINT item_pkey;
INSERT INTO store.thing VALUES (9, '{i}');
CREATE OR REPLACE TRIGGER capture AFTER INSERT ON store.thing
	FOR EACH ROW EXECUTE FUNCTION eventstore.capture('type=x', 'columns=extra');
INSERT INTO store.thing VALUES (10, '{j}');
BEGIN;
ALTER TABLE store.thing RENAME COLUMN extra TO more;
ROLLBACK;
INSERT INTO store.thing VALUES (11, '{k}');
SELECT type, key, payload FROM captured;
TRUNCATE eventstore.event;

-- The extension may go and come back while a session has plans.
DROP SCHEMA store CASCADE;
DROP VIEW captured;
SET client_min_messages = error;
DROP EXTENSION eventstore CASCADE;
CREATE EXTENSION eventstore;
RESET client_min_messages;
CREATE TABLE orders (id integer PRIMARY KEY);
CREATE TRIGGER capture AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION eventstore.capture();
INSERT INTO orders VALUES (1);
SELECT type, key, payload FROM eventstore.event;

DROP TABLE orders;
DROP EXTENSION eventstore CASCADE;
