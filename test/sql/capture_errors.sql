-- capture(): triggers that are wrong say so when they fire, and nothing is
-- written; DDL that comes later.
SET client_min_messages = error;
CREATE EXTENSION eventstore;
RESET client_min_messages;

CREATE TABLE orders (id integer PRIMARY KEY, state text, body json, "Big Name" text);

-- Fire a trigger with some arguments, and tell what comes of it.
CREATE FUNCTION try(arguments text, events text = 'INSERT OR UPDATE OR DELETE') RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	state text; message text; detail text; hint text;
BEGIN
	EXECUTE 'CREATE TRIGGER capture AFTER ' || events || ' ON orders FOR EACH ROW EXECUTE FUNCTION eventstore.capture(' || arguments || ')';
	INSERT INTO orders VALUES (1, 'placed');
	RAISE EXCEPTION 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RAISE INFO E'%: %\n%\n%', state, message, detail, hint;
END $$;
\set VERBOSITY terse
\pset tuples_only on

SELECT try($$ 'order.placed' $$);
SELECT try($$ 'kye=order-{id}' $$);
SELECT try($$ 'Key=order-{id}' $$);
SELECT try($$ 'key =order-{id}' $$);
SELECT try($$ 'topic=order' $$);
SELECT try($$ '=order' $$);
SELECT try($$ '' $$);
SELECT try($$ 'key=a', 'key=b' $$);
SELECT try($$ 'type=' $$);
SELECT try($$ 'type=order placed' $$);
SELECT try($$ 'type=order.{state}!' $$);
SELECT try($$ 'type={{state}}' $$);
SELECT try(quote_literal('type={state}' || repeat('x', 201)));
SELECT try($$ 'key={id' $$);
SELECT try($$ 'key={id{' $$);
SELECT try($$ 'key=id}' $$);
SELECT try($$ 'key={}' $$);
SELECT try($$ 'key={ID}' $$);
SELECT try($$ 'key={big name}' $$);
SELECT try($$ 'key={ctid}' $$);
SELECT try($$ 'type=order.{status}' $$);
SELECT try($$ 'columns=id,stat' $$);
SELECT try($$ 'columns=' $$);
SELECT try($$ 'columns=id,' $$);
SELECT try($$ 'columns="id' $$);
SELECT try($$ 'columns="id"state' $$);
SELECT try($$ 'changed=quite_something_else' $$);
SELECT try($$ 'changed=state' $$, 'INSERT');
SELECT try($$ 'old=false' $$, 'INSERT OR DELETE');
SELECT try($$ 'old=maybe' $$);
SELECT try($$ 'payload=' $$);
SELECT try($$ 'payload=nothing' $$);
SELECT try($$ 'payload=body' $$);
SELECT try($$ 'payload=body', 'columns=id' $$);
SELECT try($$ 'payload=body', 'old=false' $$);
SELECT try(quote_literal('columns=' || repeat('x', 5000)));
-- All is well.
SELECT try($$ 'columns= id , "Big Name",state', 'old=off', 'changed="state"' $$);
\pset tuples_only off
SELECT count(*) FROM orders;

-- Called, or fired, in ways that make no sense.
\set VERBOSITY default
SELECT eventstore.capture();
\echo :SQLSTATE
CREATE TRIGGER t BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION eventstore.capture();
INSERT INTO orders VALUES (1);
\echo :SQLSTATE
DROP TRIGGER t ON orders;
CREATE TRIGGER t BEFORE DELETE ON orders FOR EACH STATEMENT EXECUTE FUNCTION eventstore.capture();
DELETE FROM orders;
DROP TRIGGER t ON orders;
CREATE TRIGGER t AFTER TRUNCATE ON orders FOR EACH STATEMENT EXECUTE FUNCTION eventstore.capture();
TRUNCATE orders;
\echo :SQLSTATE
DROP TRIGGER t ON orders;
CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH STATEMENT EXECUTE FUNCTION eventstore.capture();
INSERT INTO orders VALUES (1);
\echo :SQLSTATE
UPDATE orders SET id = 2;
DELETE FROM orders;
DROP TRIGGER t ON orders;
CREATE TRIGGER t AFTER UPDATE ON orders REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION eventstore.capture();
UPDATE orders SET id = 2;
CREATE OR REPLACE TRIGGER t AFTER UPDATE ON orders REFERENCING NEW TABLE AS n
	FOR EACH STATEMENT EXECUTE FUNCTION eventstore.capture('old=false', 'changed=state');
UPDATE orders SET id = 2;
CREATE OR REPLACE TRIGGER t AFTER UPDATE ON orders REFERENCING OLD TABLE AS o
	FOR EACH STATEMENT EXECUTE FUNCTION eventstore.capture();
UPDATE orders SET id = 2;
DROP TRIGGER t ON orders;
CREATE VIEW a_view AS SELECT * FROM orders;
CREATE TRIGGER t INSTEAD OF INSERT ON a_view FOR EACH ROW EXECUTE FUNCTION eventstore.capture();
INSERT INTO a_view VALUES (1);
DROP VIEW a_view;
SELECT count(*) FROM eventstore.event;

-- A column that is named and then renamed or dropped: an error, not events with
-- another key or type.
CREATE TRIGGER t AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION eventstore.capture('key={state}');
INSERT INTO orders VALUES (1, 'a');
ALTER TABLE orders RENAME COLUMN state TO phase;
INSERT INTO orders VALUES (2, 'b');
ALTER TABLE orders RENAME COLUMN phase TO state;
INSERT INTO orders VALUES (3, 'c');
ALTER TABLE orders DROP COLUMN state;
INSERT INTO orders VALUES (4);
CREATE OR REPLACE TRIGGER t AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION eventstore.capture();
INSERT INTO orders VALUES (5);
SELECT type, key FROM eventstore.event ORDER BY id;

-- Where nothing can be written.
CREATE TEMP TABLE t (id integer PRIMARY KEY);
SELECT eventstore.capture_table('t');
BEGIN READ ONLY;
INSERT INTO t VALUES (1);
ROLLBACK;
TABLE t;

DROP TABLE orders, t;
DROP FUNCTION try;
DROP EXTENSION eventstore CASCADE;
