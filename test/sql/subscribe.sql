-- subscribe(), alter_subscription(), pause(), resume(), unsubscribe(), and the
-- status view.  No dispatcher runs here: nothing is delivered.
SET client_min_messages = error;
CREATE EXTENSION eventstore;
RESET client_min_messages;

-- Runs a statement and shows how it went; an error is undone.
CREATE FUNCTION outcome(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message text; detail text; hint text;
BEGIN
	EXECUTE statement;
	RETURN statement || E'\n    ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n    ', statement, SQLSTATE || ' ' || message,
					 'detail: ' || nullif(detail, ''), 'hint: ' || nullif(hint, ''));
END $$;

-- What there is.
CREATE VIEW subscriptions AS
	SELECT s.id, s.name, s.endpoint, s.types, s.filter, s.owner, s.state, s.state_reason AS reason,
		   array_agg(format('%s:%s,%s,%s', p.step, p.position, p.previous, p.delivered)) AS progress
	FROM eventstore.subscription s LEFT JOIN eventstore_internal.progress p ON p.subscription = s.id
	GROUP BY s.id, s.name;

CREATE ROLE regress_ann;
CREATE ROLE regress_bob;
GRANT EXECUTE ON FUNCTION eventstore.subscribe, eventstore.alter_subscription, eventstore.unsubscribe,
	eventstore.pause, eventstore.resume TO regress_ann, regress_bob;
GRANT SELECT ON eventstore.subscription_status TO regress_ann;

--
-- From now on, from the beginning, from between
--
SELECT count(*) FROM eventstore.emit_batch('[{"type": "a"}, {"type": "b"}, {"type": "c"}]');
SELECT eventstore.seal();
SELECT eventstore.subscribe('now', 'notify:now');
SELECT eventstore.subscribe('all', 'notify:all', start_after => 0);
SELECT eventstore.subscribe('some', 'notify:some', '{order.*, refund}', '$.amount > 100', 2);
SELECT * FROM subscriptions ORDER BY id;

-- the same again, a different place to start included, changes nothing
SELECT eventstore.subscribe('some', 'notify:some', '{order.*,refund}', '($.amount > 100)');
SELECT eventstore.subscribe('some', 'notify:some', '[5:6]={order.*,refund}', '$.amount > 100', 3, replace => true);
SELECT * FROM subscriptions WHERE name = 'some';

-- another needs replace, which keeps what it has come to
SELECT eventstore.subscribe('some', 'notify:others', '{*}');
SELECT eventstore.subscribe('some', 'notify:some', '{refund,order.*}', '$.amount > 100');
SELECT eventstore.subscribe('all', 'notify:all', filter => '$.x');
SELECT eventstore.subscribe('some', 'notify:others', '{*}', replace => true);
SELECT * FROM subscriptions WHERE name = 'some';

-- the longest of each
SELECT eventstore.subscribe(repeat('n', 63), 'notify:' || repeat('c', 63), ARRAY[repeat('t', 200), repeat('t', 200) || '.*']);
SELECT eventstore.subscribe('Größen & ''Namen''', 'notify:Kanal "ü": x');
SELECT eventstore.unsubscribe(repeat('n', 63));
SELECT eventstore.unsubscribe('Größen & ''Namen''');

-- a rollback takes all of it back
BEGIN;
SELECT eventstore.subscribe('gone', 'notify:gone');
SELECT eventstore.pause('all');
ROLLBACK;
SELECT name, state FROM subscriptions ORDER BY name;

--
-- alter, pause, resume
--
SELECT eventstore.alter_subscription('some', '{"filter": "$.a == \"$\\\"x\\\"\"", "types": ["x", "y.*"]}');
SELECT eventstore.alter_subscription('some', '{"endpoint": "notify:elsewhere"}');
SELECT * FROM subscriptions WHERE name = 'some';
SELECT eventstore.alter_subscription('some', '{"filter": null}');
SELECT eventstore.alter_subscription('some', '{}');
SELECT eventstore.pause('some');
SELECT * FROM subscriptions WHERE name = 'some';
SELECT eventstore.pause('some');
SELECT eventstore.pause('some', 'the listener is being moved');
SELECT eventstore.pause('some');
SELECT * FROM subscriptions WHERE name = 'some';
SELECT eventstore.subscribe('some', 'notify:elsewhere', '{x,y.*}');
SELECT eventstore.subscribe('some', 'notify:there', '{x,y.*}', replace => true);
SELECT * FROM subscriptions WHERE name = 'some';
SELECT eventstore.resume('some');
SELECT eventstore.resume('some');
SELECT * FROM subscriptions WHERE name = 'some';

--
-- The status view
--
SELECT count(*) FROM eventstore.emit_batch('[{"type": "a"}, {"type": "b"}]');
SELECT eventstore.seal();
SELECT eventstore.pause('now', 'lunch');
SELECT name, endpoint, types, owner, state, state_reason, position, lag_events, lag > '0' AS lags, delivered,
	   last_success_at, last_error, last_error_at
FROM eventstore.subscription_status ORDER BY name;

-- as a dispatcher would write it
INSERT INTO eventstore_internal.progress
SELECT s.id, 1, v.position, v.previous, v.delivered, v.recorded_at
FROM (VALUES ('now', 5, 4, 2, timestamptz '2030-01-01'), ('all', 3, 3, 1, '2030-01-02'))
		v (name, position, previous, delivered, recorded_at)
	JOIN eventstore.subscription s USING (name);
DELETE FROM eventstore_internal.progress p USING eventstore.subscription s
WHERE s.id = p.subscription AND s.name = 'some';
SELECT name, state, state_reason, position, lag_events, delivered, last_success_at::date
FROM eventstore.subscription_status ORDER BY name;
SELECT s.lag BETWEEN now() - g.sealed_at AND clock_timestamp() - g.sealed_at AS since_sealed
FROM eventstore.subscription_status s, eventstore_internal.segment g
WHERE s.name = 'all' AND g.first_position = 4;
SELECT lag FROM eventstore.subscription_status WHERE name = 'now';

-- positions between two epochs are none
UPDATE eventstore_internal.segment SET first_position = 1000000000001 WHERE first_position = 4;
INSERT INTO eventstore_internal.epoch
SELECT 1000000000001, 3, system_identifier, timeline, database, 'test', now() FROM eventstore_internal.epoch;
SELECT eventstore.subscribe('between', 'notify:between', start_after => 1);
SELECT name, position, lag_events FROM eventstore.subscription_status ORDER BY name;
SELECT outcome($$SELECT eventstore.subscribe('lost', 'notify:lost', start_after => 4)$$);
SELECT eventstore.unsubscribe('between');

--
-- Unsubscribe
--
SELECT eventstore.unsubscribe('some');
SELECT eventstore.unsubscribe('some', if_exists => true);
SELECT eventstore.unsubscribe('now');
SELECT eventstore.unsubscribe('all', true);
SELECT * FROM subscriptions;
SELECT * FROM eventstore_internal.progress;
SELECT * FROM eventstore.subscription_status;
SELECT eventstore.subscribe('all', 'notify:all');
SELECT id > 1 AS new_id FROM subscriptions;

--
-- Ownership
--
\pset format unaligned
\pset tuples_only on
SET ROLE regress_ann;
SELECT eventstore.subscribe('ann', 'notify:ann');
SELECT name, owner FROM eventstore.subscription_status ORDER BY name;
SET ROLE regress_bob;
SELECT eventstore.subscribe('ann', 'notify:ann');
RESET ROLE;
CREATE TABLE attempts (s text);
GRANT SELECT ON attempts TO regress_ann, regress_bob;
INSERT INTO attempts VALUES
	($$SELECT eventstore.subscribe('ann', 'notify:bob')$$),
	($$SELECT eventstore.subscribe('ann', 'notify:bob', replace => true)$$),
	($$SELECT eventstore.alter_subscription('ann', '{"endpoint": "notify:ann"}')$$),
	($$SELECT eventstore.alter_subscription('ann', '{}')$$),
	($$SELECT eventstore.pause('ann')$$),
	($$SELECT eventstore.resume('ann')$$),
	($$SELECT eventstore.unsubscribe('ann', if_exists => true)$$),
	($$SELECT eventstore.subscribe('ann', 'notify:ann')$$);
SET ROLE regress_bob;
SELECT outcome(s) FROM attempts;
SET ROLE regress_ann;
SELECT outcome(s) FROM attempts;
RESET ROLE;
DROP TABLE attempts;
-- a member of the owning role, and a superuser
SELECT name, owner FROM subscriptions ORDER BY name;
GRANT regress_ann TO regress_bob;
SET ROLE regress_bob;
SELECT eventstore.pause('ann', 'by bob');
RESET ROLE;
SELECT eventstore.resume('ann');
SELECT eventstore.unsubscribe('ann');

--
-- What is refused
--
\set ECHO none
SELECT outcome(s) FROM (VALUES
	($$SELECT eventstore.subscribe(NULL, 'notify:x')$$),
	($$SELECT eventstore.subscribe('', 'notify:x')$$),
	($$SELECT eventstore.subscribe(repeat('n', 64), 'notify:x')$$),
	($$SELECT eventstore.subscribe('x' || repeat('ü', 40), 'notify:x')$$),
	($$SELECT eventstore.subscribe(E'a\nb', 'notify:x')$$),
	($$SELECT eventstore.subscribe(E'a\x7F', 'notify:x')$$),
	($$SELECT eventstore.subscribe('x', NULL)$$),
	($$SELECT eventstore.subscribe('x', '')$$),
	($$SELECT eventstore.subscribe('x', 'orders')$$),
	($$SELECT eventstore.subscribe('x', ':orders')$$),
	($$SELECT eventstore.subscribe('x', 'ftp://orders')$$),
	($$SELECT eventstore.subscribe('x', 'NOTIFY:orders')$$),
	($$SELECT eventstore.subscribe('x', ' notify:orders')$$),
	($$SELECT eventstore.subscribe('x', 'notif:orders')$$),
	($$SELECT eventstore.subscribe('x', 'x' || repeat('ü', 100) || ':orders')$$),
	($$SELECT eventstore.subscribe('x', repeat('ü', 100))$$),
	($$SELECT eventstore.subscribe('x', 'notify:')$$),
	($$SELECT eventstore.subscribe('x', 'notify:' || repeat('c', 64))$$),
	($$SELECT eventstore.subscribe('x', 'notify:x' || repeat('ü', 40))$$),
	($$SELECT eventstore.subscribe('x', 'notify:orders_{key}')$$),
	($$SELECT eventstore.subscribe('x', 'notify:orders}')$$),
	($$SELECT eventstore.subscribe('x', E'notify:a\tb')$$),
	($$SELECT eventstore.subscribe('x', 'notify:x', NULL)$$),
	($$SELECT eventstore.subscribe('x', 'notify:x', '{}')$$),
	($$SELECT eventstore.subscribe('x', 'notify:x', '{a, NULL}')$$),
	($$SELECT eventstore.subscribe('x', 'notify:x', '{a, ""}')$$),
	($$SELECT eventstore.subscribe('x', 'notify:x', '{a*}')$$),
	($$SELECT eventstore.subscribe('x', 'notify:x', '{.*}')$$),
	($$SELECT eventstore.subscribe('x', 'notify:x', '{*.a}')$$),
	($$SELECT eventstore.subscribe('x', 'notify:x', '{a.*.b}')$$),
	($$SELECT eventstore.subscribe('x', 'notify:x', '{a b}')$$),
	($$SELECT eventstore.subscribe('x', 'notify:x', ARRAY[repeat('t', 201)])$$),
	($$SELECT eventstore.subscribe('x', 'notify:x', filter => '$.')$$),
	($$SELECT eventstore.subscribe('x', 'notify:x', filter => '$.a > $limit')$$),
	($$SELECT eventstore.subscribe('x', 'notify:x', filter => '$.a ? (@.b == "\"" && @.c == $"x")')$$),
	($$SELECT eventstore.subscribe('x', 'notify:x', start_after => -1)$$),
	($$SELECT eventstore.subscribe('x', 'notify:x', start_after => 2000000000000)$$),
	($$SELECT eventstore.subscribe('x', 'notify:x', replace => NULL)$$)) v (s);
SELECT outcome(s) FROM (VALUES
	($$SELECT eventstore.alter_subscription(NULL, '{}')$$),
	($$SELECT eventstore.alter_subscription('all', NULL)$$),
	($$SELECT eventstore.alter_subscription('nobody', '{}')$$),
	($$SELECT eventstore.alter_subscription('all', '[]')$$),
	($$SELECT eventstore.alter_subscription('all', '"endpoint"')$$),
	($$SELECT eventstore.alter_subscription('all', '{"endpoint": "notify:x", "name": "x"}')$$),
	($$SELECT eventstore.alter_subscription('all', '{"": 1}')$$),
	($$SELECT eventstore.alter_subscription('all', '{"endpoint": null}')$$),
	($$SELECT eventstore.alter_subscription('all', '{"endpoint": ["notify:x"]}')$$),
	($$SELECT eventstore.alter_subscription('all', '{"endpoint": "x"}')$$),
	($$SELECT eventstore.alter_subscription('all', '{"types": null}')$$),
	($$SELECT eventstore.alter_subscription('all', '{"types": "*"}')$$),
	($$SELECT eventstore.alter_subscription('all', '{"types": {"*": 1}}')$$),
	($$SELECT eventstore.alter_subscription('all', '{"types": ["a", 1]}')$$),
	($$SELECT eventstore.alter_subscription('all', '{"types": []}')$$),
	($$SELECT eventstore.alter_subscription('all', '{"types": ["a b"]}')$$),
	($$SELECT eventstore.alter_subscription('all', '{"filter": true}')$$),
	($$SELECT eventstore.alter_subscription('all', '{"filter": {}}')$$),
	($$SELECT eventstore.alter_subscription('all', '{"filter": "$."}')$$),
	($$SELECT eventstore.alter_subscription('all', '{"filter": "$x"}')$$),
	($$SELECT eventstore.pause(NULL)$$),
	($$SELECT eventstore.pause('nobody')$$),
	($$SELECT eventstore.resume(NULL)$$),
	($$SELECT eventstore.resume('nobody')$$),
	($$SELECT eventstore.unsubscribe(NULL)$$),
	($$SELECT eventstore.unsubscribe('nobody')$$),
	($$SELECT eventstore.unsubscribe('all', NULL)$$)) v (s);
BEGIN READ ONLY;
SELECT outcome(s) FROM (VALUES
	($$SELECT eventstore.subscribe('x', 'notify:x')$$),
	($$SELECT eventstore.alter_subscription('all', '{"endpoint": "notify:x"}')$$),
	($$SELECT eventstore.pause('all')$$),
	($$SELECT eventstore.resume('all')$$),
	($$SELECT eventstore.unsubscribe('all')$$)) v (s);
COMMIT;
SELECT name, endpoint, types, filter, state FROM subscriptions;
\set ECHO all

-- names are ours whatever the search_path
CREATE SCHEMA hostile;
CREATE FUNCTION hostile.always(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.always);
CREATE FUNCTION hostile.always(integer, integer) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR hostile.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = hostile.always);
CREATE TABLE hostile.subscription (LIKE eventstore.subscription);
SET search_path = hostile, eventstore_internal, pg_catalog;
SELECT eventstore.subscribe('hostile', 'notify:hostile');
SELECT eventstore.pause('hostile');
SELECT eventstore.unsubscribe('hostile');
RESET search_path;
SELECT name, state FROM subscriptions ORDER BY id;

SET client_min_messages = error;
DROP SCHEMA hostile CASCADE;
DROP VIEW subscriptions;
DROP FUNCTION outcome;
DROP EXTENSION eventstore CASCADE;
DROP ROLE regress_ann, regress_bob;
