-- Reading the feed: pages, filters, limits, and the errors a reader branches on.
SET client_min_messages = error;
CREATE EXTENSION eventstore;
RESET client_min_messages;

-- An empty feed.
SELECT eventstore.head();
SELECT position, id FROM eventstore.read();
SELECT position, id FROM eventstore.tail();
SELECT eventstore.position_at('infinity'), eventstore.position_at('-infinity');

-- Committed, not sealed, and nobody will: say so.
SELECT eventstore.emit('order.placed', '{"n": 1}', 'order-1');
SELECT position, id FROM eventstore.read();
SELECT position, id FROM eventstore.tail();
SELECT eventstore.seal();
SELECT position, id, type, key, payload, headers, emitted_at <= now() AS emitted FROM eventstore.read();

-- Ids have gaps where transactions roll back; positions have none.
BEGIN;
SELECT eventstore.emit('order.placed', '{"n": 2}', 'order-2');
ROLLBACK;
SELECT count(eventstore.emit(t, jsonb_build_object('n', n), 'order-' || n))
FROM (VALUES (3, 'order.canceled'), (4, 'order.item.added'), (5, 'order'), (6, 'orders.placed'), (7, 'mail.sent')) v(n, t);
SELECT eventstore.seal();
SELECT position, id, type FROM eventstore.read();

-- Nothing new: nothing sealed.
SELECT eventstore.seal();

-- Pages.
SELECT position FROM eventstore.read(max_events => 2);
SELECT position FROM eventstore.read(after => 2, max_events => 2);
SELECT position FROM eventstore.read(5);
SELECT position FROM eventstore.read(6);
SELECT position FROM eventstore.read(1, upto => 3);
SELECT position FROM eventstore.read(3, upto => 1);
SELECT position FROM eventstore.read(max_events => 0);

-- Filters: exact, below, all, any of several.
SELECT position, type FROM eventstore.read(types => '{order.canceled}');
SELECT position, type FROM eventstore.read(types => '{order.*}');
SELECT position, type FROM eventstore.read(types => '{order.item.*,mail.sent}');
SELECT position, type FROM eventstore.read(types => '{*}', max_events => 1);
SELECT position, type FROM eventstore.read(types => '{nothing}');
SELECT position, type FROM eventstore.tail(2);
SELECT position, type FROM eventstore.tail(2, '{order.*}');
SELECT position, type FROM eventstore.tail(0);

-- Time.
SELECT eventstore.position_at(sealed_at) AS first_pass,
	   eventstore.position_at(sealed_at - interval '1 microsecond') AS before
FROM eventstore_internal.segment WHERE first_position = 1;
SELECT eventstore.position_at(now() + interval '1 hour');

-- Bad arguments.
\set VERBOSITY terse
SELECT eventstore.read(-1);
SELECT eventstore.read(NULL);
SELECT eventstore.read(max_events => -1);
SELECT eventstore.read(max_events => NULL);
SELECT eventstore.read(upto => -1);
SELECT eventstore.read(types => NULL);
SELECT eventstore.read(types => '{}');
SELECT eventstore.read(types => '{NULL}');
SELECT eventstore.read(types => '{""}');
SELECT eventstore.read(types => '{.*}');
SELECT eventstore.read(types => '{order*}');
SELECT eventstore.read(types => '{order.*.x}');
SELECT eventstore.read(types => '{order canceled}');
SELECT eventstore.tail(-1);
SELECT eventstore.tail(types => '{order,}');
\set VERBOSITY default

-- A position beyond the feed is of another history.
SELECT eventstore.read(7);
\echo :LAST_ERROR_SQLSTATE
SELECT eventstore.read(1000000000000);
\echo :LAST_ERROR_SQLSTATE

-- Leaves end where they end: a batch across three of them, one page over all.
SET eventstore.partition_size = 1000;
SELECT count(*), max(id) - min(id) + 1 AS ids FROM eventstore.emit_batch(
	(SELECT jsonb_agg(jsonb_build_object('type', 'many', 'payload', i)) FROM generate_series(1, 1500) i)) id;
ALTER SEQUENCE eventstore_internal.event_id RESTART 1000900;
SELECT count(*), min(id), max(id) FROM eventstore.emit_batch(
	(SELECT jsonb_agg(jsonb_build_object('type', 'many', 'payload', 1500 + i)) FROM generate_series(1, 1500) i)) id;
SELECT relid FROM pg_partition_tree('eventstore.event') WHERE isleaf ORDER BY relid::text;
SELECT eventstore.seal();
SELECT count(*), bool_and(payload::int = position - 6) AS in_order
FROM eventstore.read(after => 6, max_events => 5000);
SELECT position, payload FROM eventstore.read(after => 1604, max_events => 3);

-- A segment whose events are gone is an error, not a shorter page.
CREATE TABLE kept AS SELECT * FROM eventstore.event WHERE id = 5;
DELETE FROM eventstore.event WHERE id = 5;
SELECT position FROM eventstore.read();
\echo :LAST_ERROR_SQLSTATE
SELECT position FROM eventstore.read(max_events => 3);
INSERT INTO eventstore.event SELECT * FROM kept;
SELECT position, xid IS NULL AS xid_forgotten
FROM eventstore.read(max_events => 5) JOIN eventstore.event USING (id) ORDER BY position;
SELECT eventstore.seal();

-- What is no longer retained.
DELETE FROM eventstore_internal.segment WHERE first_position = 1;
SELECT position FROM eventstore.read();
\echo :LAST_ERROR_SQLSTATE
SELECT position FROM eventstore.read(after => 1, max_events => 1);

-- Sealing needs a transaction that has not written.
BEGIN;
SELECT eventstore.emit('late');
SELECT eventstore.seal();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN READ ONLY;
SELECT eventstore.seal();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;

DROP TABLE kept;
DROP EXTENSION eventstore CASCADE;
