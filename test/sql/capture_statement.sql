-- capture() as a statement trigger; partitioned and inherited tables.
SET client_min_messages = error;
CREATE EXTENSION eventstore;
RESET client_min_messages;

-- What was emitted since the last look, which it forgets.
CREATE FUNCTION captured() RETURNS TABLE (type text, key text, old jsonb, new jsonb, t text) LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY SELECT e.type, e.key, e.payload -> 'old', e.payload -> 'new', e.payload ->> 'table'
		FROM eventstore.event e ORDER BY id;
	TRUNCATE eventstore.event;
END $$;

CREATE TABLE orders (id integer PRIMARY KEY, state text, total numeric);
CREATE TRIGGER i AFTER INSERT ON orders REFERENCING NEW TABLE AS n
	FOR EACH STATEMENT EXECUTE FUNCTION eventstore.capture();
CREATE TRIGGER u AFTER UPDATE ON orders REFERENCING NEW TABLE AS n OLD TABLE AS o
	FOR EACH STATEMENT EXECUTE FUNCTION eventstore.capture();
CREATE TRIGGER d AFTER DELETE ON orders REFERENCING OLD TABLE AS o
	FOR EACH STATEMENT EXECUTE FUNCTION eventstore.capture();
INSERT INTO orders SELECT n, 'placed', n FROM generate_series(1, 3) n;
UPDATE orders SET state = 'paid' WHERE id > 1;
DELETE FROM orders WHERE id = 1;
SELECT * FROM captured();

-- Other ways to write.
INSERT INTO orders VALUES (2, 'again', 0), (4, 'first', 0)
	ON CONFLICT (id) DO UPDATE SET state = EXCLUDED.state || ' updated';
SELECT * FROM captured();
MERGE INTO orders USING (VALUES (2), (3), (5)) AS s (id) ON orders.id = s.id
	WHEN MATCHED AND s.id = 2 THEN DELETE
	WHEN MATCHED THEN UPDATE SET state = 'merged'
	WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'merged', 0);
SELECT * FROM captured();
COPY orders FROM stdin;
6	copied	1
7	\N	\N
\.
SELECT * FROM captured();
WITH gone AS (DELETE FROM orders WHERE id < 6 RETURNING *),
	changed AS (UPDATE orders SET total = 5 WHERE id = 6)
INSERT INTO orders SELECT id + 10, state, total FROM gone;
SELECT type, key FROM captured() ORDER BY 1, 2;

-- Nothing changed: nothing emitted, and no xid taken.
BEGIN;
UPDATE orders SET total = 0 WHERE false;
DELETE FROM orders WHERE false;
INSERT INTO orders SELECT * FROM orders WHERE false;
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_xid;
COMMIT;
SELECT * FROM captured();

BEGIN;
INSERT INTO orders VALUES (20, 'kept', 1);
SAVEPOINT a;
UPDATE orders SET state = 'undone';
ROLLBACK TO a;
COMMIT;
SELECT type, key FROM captured();

-- changed=; a second trigger reads the same transition tables.
CREATE OR REPLACE TRIGGER u AFTER UPDATE ON orders REFERENCING NEW TABLE AS n OLD TABLE AS o
	FOR EACH STATEMENT EXECUTE FUNCTION eventstore.capture('changed=state', 'old=false', 'columns=state');
CREATE TRIGGER u2 AFTER UPDATE ON orders REFERENCING NEW TABLE AS n
	FOR EACH STATEMENT EXECUTE FUNCTION eventstore.capture('type=second', 'old=false', 'columns=total');
UPDATE orders SET state = CASE id WHEN 6 THEN 'x' WHEN 7 THEN state ELSE NULL END, total = 9;
SELECT * FROM captured();
UPDATE orders SET state = state, total = 8;
SELECT type, count(*) FROM captured() GROUP BY 1;
DROP TRIGGER u2 ON orders;

-- Batches: their order, their ids, and memory for rows of any size.
TRUNCATE orders, eventstore.event;
INSERT INTO orders SELECT n, 'placed', n FROM generate_series(1, 3500) n;
UPDATE orders SET state = id % 7;
UPDATE orders SET state = id % 7 WHERE id % 100 = 0;
DELETE FROM orders;
SELECT type, count(*), count(DISTINCT key), min(id), max(id), bool_and(key = 'orders-' || place OR type = 'orders.delete') AS in_order
	FROM (SELECT type, key, id, row_number() OVER (PARTITION BY type ORDER BY id) AS place FROM eventstore.event) e
	GROUP BY type ORDER BY 4;
TRUNCATE eventstore.event;
-- A cast to json is called in the midst of it, and looks at the memory in use.
CREATE TYPE probe AS ENUM ('memory');
CREATE FUNCTION look(probe) RETURNS json LANGUAGE sql VOLATILE AS $$
	SELECT to_json(sum(total_bytes) < 16000000) FROM pg_backend_memory_contexts WHERE name = 'eventstore capture batch'
$$;
CREATE CAST (probe AS json) WITH FUNCTION look(probe);
CREATE TABLE large (id integer PRIMARY KEY, document text, probe probe);
SELECT eventstore.capture_table('large');
INSERT INTO large SELECT n, repeat('x', 1000000), 'memory' FROM generate_series(1, 30) n;
SELECT payload -> 'new' -> 'probe' AS bounded, count(*), min(length(payload -> 'new' ->> 'document'))
	FROM eventstore.event GROUP BY 1;
DROP TABLE large;
DROP CAST (probe AS json);
DROP FUNCTION look;
DROP TYPE probe;
DROP TABLE orders;
TRUNCATE eventstore.event;

-- A partitioned table, the columns of whose partitions are in another order.
CREATE TABLE part (id integer, region text, v integer, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE part_north (extra text, v integer, region text NOT NULL, id integer NOT NULL);
ALTER TABLE part_north DROP COLUMN extra;
ALTER TABLE part ATTACH PARTITION part_north FOR VALUES IN ('north');
CREATE TABLE part_south PARTITION OF part FOR VALUES IN ('south', 'deep south') PARTITION BY LIST (region);
CREATE TABLE part_south_1 PARTITION OF part_south FOR VALUES IN ('south');
CREATE TABLE part_south_2 (v integer, id integer NOT NULL, region text NOT NULL);
ALTER TABLE part_south ATTACH PARTITION part_south_2 FOR VALUES IN ('deep south');

SELECT eventstore.capture_table('part');
INSERT INTO part VALUES (1, 'north', 10), (2, 'south', 20), (3, 'deep south', 30);
SELECT * FROM captured();
UPDATE part SET v = v + 1;
SELECT * FROM captured();
-- Rows move to another partition: an update, with both images.
UPDATE part SET region = CASE region WHEN 'north' THEN 'deep south' WHEN 'south' THEN 'south' ELSE 'north' END, v = v + 1;
SELECT * FROM captured();
-- A moving row is discarded by the other partition: it is gone, and which row
-- became which is unknown.
CREATE FUNCTION discard() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN CASE WHEN NEW.id = 2 THEN NULL ELSE NEW END; END';
CREATE TRIGGER discard BEFORE INSERT ON part_north FOR EACH ROW EXECUTE FUNCTION discard();
INSERT INTO part VALUES (4, 'north', 40), (5, 'south', 50);
SELECT type, key FROM captured();
UPDATE part SET region = 'north', v = v + 1;
SELECT * FROM captured();
SELECT * FROM part ORDER BY id;
DROP TRIGGER discard ON part_north;

-- A column with a default that was added later.
TRUNCATE part;
INSERT INTO part VALUES (1, 'north', 10), (2, 'south', 20);
ALTER TABLE part ADD COLUMN added integer DEFAULT 7;
SELECT type, key FROM captured();
UPDATE part SET v = v + 1;
SELECT * FROM captured();
DELETE FROM part;
SELECT * FROM captured();

-- The same with a row trigger: it fires in the partitions, names the root, and
-- sees a move as the deletion and insertion that it is.
SELECT eventstore.uncapture_table('part');
CREATE TRIGGER capture AFTER INSERT OR UPDATE OR DELETE ON part
	FOR EACH ROW EXECUTE FUNCTION eventstore.capture();
INSERT INTO part VALUES (1, 'north', 10), (2, 'south', 20), (3, 'deep south', 30);
UPDATE part SET v = v + 1 WHERE id < 3;
UPDATE part SET region = 'north' WHERE id = 3;
INSERT INTO part_north VALUES (7, 'north', 4);
DELETE FROM part_south_1;
SELECT * FROM captured();
ALTER TABLE part RENAME TO renamed;
DELETE FROM part_north WHERE id = 1;
SELECT * FROM captured();
CREATE TABLE part_west PARTITION OF renamed FOR VALUES IN ('west');
INSERT INTO renamed VALUES (8, 'west', 8);
ALTER TABLE renamed DETACH PARTITION part_west;
INSERT INTO part_west VALUES (9, 'west', 9);
SELECT * FROM captured();
DROP TABLE renamed, part_west;

-- Inheritance: statement triggers of the parent see its children's rows, when
-- the statement names the parent.
CREATE TABLE parent (id integer PRIMARY KEY, v integer);
CREATE TABLE child (extra text) INHERITS (parent);
CREATE TABLE other (w integer, v integer, id integer NOT NULL);
ALTER TABLE other INHERIT parent;
SELECT eventstore.capture_table('parent');
CREATE TRIGGER row_capture AFTER UPDATE ON child FOR EACH ROW EXECUTE FUNCTION eventstore.capture('key=child-{id}');
INSERT INTO parent VALUES (1, 1);
INSERT INTO child VALUES (2, 2, 'x');
INSERT INTO other VALUES (0, 3, 3);
UPDATE parent SET v = v * 10;
DELETE FROM parent WHERE id = 3;
SELECT * FROM captured();
DROP TABLE parent CASCADE;

-- Rows changed by a foreign key.
CREATE TABLE customer (id integer PRIMARY KEY);
CREATE TABLE account (id integer PRIMARY KEY, customer integer REFERENCES customer ON DELETE CASCADE ON UPDATE CASCADE);
SELECT eventstore.capture_table('account');
INSERT INTO customer VALUES (1), (2);
INSERT INTO account VALUES (10, 1), (11, 1), (20, 2);
UPDATE customer SET id = id + 5 WHERE id = 1;
DELETE FROM customer;
SELECT type, key, old, new FROM captured();
DROP TABLE account, customer;

DROP FUNCTION captured, discard;
DROP EXTENSION eventstore CASCADE;
