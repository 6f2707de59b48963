-- Who may do what: the grants of the README, as a matrix
SET client_min_messages = error;
CREATE EXTENSION eventstore;

CREATE ROLE regress_nobody;
CREATE ROLE regress_emitter;
CREATE ROLE regress_reader;
CREATE ROLE regress_admin;
-- The README's grants.
GRANT EXECUTE ON FUNCTION eventstore.emit, eventstore.emit_once, eventstore.emit_batch,
	eventstore.capture, eventstore.capture_table, eventstore.uncapture_table TO regress_emitter;
GRANT EXECUTE ON FUNCTION eventstore.read, eventstore.tail, eventstore.head, eventstore.position_at TO regress_reader;
GRANT EXECUTE ON FUNCTION eventstore.subscribe, eventstore.alter_subscription, eventstore.unsubscribe,
	eventstore.pause, eventstore.resume, eventstore.seal TO regress_admin;
GRANT SELECT ON eventstore.subscription, eventstore.subscription_status TO regress_admin;

SELECT eventstore.emit('a', '{}', 'k');
SELECT eventstore.seal();
SELECT eventstore.subscribe('everything', 'notify:everything');

--
-- What PUBLIC has: the schema, and a function that asks for SELECT on its view
--
SELECT kind, name, acl.privilege_type
FROM (SELECT 'schema', nspname::text, coalesce(nspacl, acldefault('n', nspowner))
	  FROM pg_namespace WHERE nspname LIKE 'eventstore%'
	  UNION ALL
	  SELECT 'function', p.oid::regprocedure::text, coalesce(proacl, acldefault('f', proowner))
	  FROM pg_proc p WHERE pronamespace::regnamespace::text LIKE 'eventstore%'
	  UNION ALL
	  SELECT 'relation', c.oid::regclass::text,
			 coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, relowner))
	  FROM pg_class c WHERE relnamespace::regnamespace::text LIKE 'eventstore%' AND relkind IN ('r', 'p', 'v', 'S')
	  UNION ALL
	  SELECT 'column', attrelid::regclass || '.' || attname, attacl
	  FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
	  WHERE relnamespace::regnamespace::text LIKE 'eventstore%'
	 ) object (kind, name, acl), aclexplode(object.acl) acl
WHERE acl.grantee = 0
ORDER BY 1, 2, 3;

--
-- By the catalogs
--
SELECT p.oid::regproc AS function,
	   has_function_privilege('regress_nobody', p.oid, 'EXECUTE') AS nobody,
	   has_function_privilege('regress_emitter', p.oid, 'EXECUTE') AS emitter,
	   has_function_privilege('regress_reader', p.oid, 'EXECUTE') AS reader,
	   has_function_privilege('regress_admin', p.oid, 'EXECUTE') AS admin
FROM pg_proc p WHERE pronamespace::regnamespace::text LIKE 'eventstore%'
ORDER BY p.oid::regproc::text COLLATE "C";

SELECT c.oid::regclass AS relation, r.rolname, string_agg(privilege, ' ')
FROM pg_class c, pg_roles r,
	unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER', 'USAGE']) privilege
WHERE c.relnamespace::regnamespace::text LIKE 'eventstore%' AND r.rolname LIKE 'regress\_%'
	AND CASE WHEN c.relkind = 'S' THEN privilege IN ('SELECT', 'UPDATE', 'USAGE')
								  AND has_sequence_privilege(r.oid, c.oid, privilege)
			 WHEN c.relkind IN ('r', 'p', 'v') THEN privilege <> 'USAGE'
								  AND has_table_privilege(r.oid, c.oid, privilege)
		END
GROUP BY 1, 2 ORDER BY 1, 2;

--
-- By trying: ok, or the SQLSTATE (42501 is insufficient privilege).  What
-- succeeds is undone.
--
CREATE FUNCTION attempt(role text, statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('role', role, true);
	EXECUTE statement;
	RAISE SQLSTATE 'OK000';
EXCEPTION
	WHEN SQLSTATE 'OK000' THEN RETURN 'ok';
	WHEN OTHERS THEN RETURN SQLSTATE;
END $$;

SELECT statement,
	   attempt('regress_nobody', statement) AS nobody,
	   attempt('regress_emitter', statement) AS emitter,
	   attempt('regress_reader', statement) AS reader,
	   attempt('regress_admin', statement) AS admin
FROM (VALUES
	($$SELECT eventstore.emit('a')$$),
	($$SELECT eventstore.emit_once('k', 'a')$$),
	($$SELECT eventstore.emit_batch('[{"type": "a"}]')$$),
	($$SELECT * FROM eventstore.read()$$),
	($$SELECT * FROM eventstore.tail()$$),
	($$SELECT eventstore.head()$$),
	($$SELECT eventstore.position_at(now())$$),
	($$SELECT eventstore.subscribe('s', 'notify:s')$$),
	($$SELECT eventstore.subscribe('everything', 'notify:s', replace => true)$$),
	($$SELECT eventstore.alter_subscription('everything', '{"endpoint": "notify:s"}')$$),
	($$SELECT eventstore.pause('everything')$$),
	($$SELECT eventstore.resume('everything')$$),
	($$SELECT eventstore.unsubscribe('everything')$$),
	($$SELECT * FROM eventstore.subscription_status$$),
	($$SELECT * FROM eventstore_internal.subscription_status()$$),
	($$SELECT eventstore_internal.installed()$$),
	($$SELECT * FROM eventstore.event$$),
	($$INSERT INTO eventstore.event (id, emitted_at, type, payload, headers) VALUES (7, now(), 'forged', '{}', '{}')$$),
	($$UPDATE eventstore.event SET payload = '1'$$),
	($$DELETE FROM eventstore.event$$),
	($$TRUNCATE eventstore.event$$),
	($$LOCK eventstore.event IN ACCESS SHARE MODE$$),
	($$CREATE TRIGGER t BEFORE INSERT ON eventstore.event FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()$$),
	($$CREATE TABLE eventstore.mine (a integer)$$),
	($$CREATE FUNCTION eventstore.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'$$),
	($$DROP TABLE eventstore.event$$),
	($$SELECT * FROM eventstore.subscription$$),
	($$INSERT INTO eventstore.subscription (name, endpoint, types, owner) VALUES ('s', 'notify:s', '{*}', 'regress_nobody')$$),
	($$UPDATE eventstore.subscription SET state = 'paused'$$),
	($$DELETE FROM eventstore.subscription$$),
	($$SELECT * FROM eventstore_internal.progress$$),
	($$INSERT INTO eventstore_internal.progress VALUES (1, 1, 1, 1, 1, now())$$),
	($$SELECT * FROM eventstore_internal.event_0$$),
	($$SELECT nextval('eventstore_internal.event_id')$$),
	($$SELECT setval('eventstore_internal.event_id', 1)$$),
	($$SELECT * FROM eventstore_internal.segment$$),
	($$DELETE FROM eventstore_internal.idempotency$$),
	($$SET eventstore.partition_size = 1000$$),
	($$SET eventstore.debug_fail_notify = on$$),
	($$SET eventstore.context = '{}'$$)) v (statement);

-- seal() cannot be undone, so not in there
SET ROLE regress_reader;
SELECT eventstore.seal();
SET ROLE regress_admin;
SELECT eventstore.seal();
RESET ROLE;

-- USAGE on the internal schema would not open anything
GRANT USAGE ON SCHEMA eventstore_internal TO regress_nobody;
SELECT statement, attempt('regress_nobody', statement) AS nobody
FROM (VALUES
	($$SELECT * FROM eventstore_internal.subscription_status()$$),
	($$SELECT eventstore_internal.installed()$$),
	($$CREATE TEMPORARY TABLE t (a integer);
	   CREATE TRIGGER t AFTER INSERT ON t EXECUTE FUNCTION eventstore_internal.subscription_changed()$$),
	($$SELECT * FROM eventstore_internal.event_0$$),
	($$SELECT * FROM eventstore_internal.progress$$),
	($$SELECT setval('eventstore_internal.event_id', 1)$$)) v (statement);

-- A trigger that someone puts on our tables does not run as their owner with
-- the right to do as it likes: here it cannot even make a temporary table.
CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	CREATE TEMPORARY TABLE trap (a integer);
	RETURN NEW;
END $$;
CREATE TRIGGER trap BEFORE INSERT ON eventstore.subscription FOR EACH ROW EXECUTE FUNCTION trap();
SELECT attempt('regress_admin', $$SELECT eventstore.subscribe('s', 'notify:s')$$);

DROP FUNCTION trap CASCADE;
DROP FUNCTION attempt;
DROP EXTENSION eventstore CASCADE;
DROP ROLE regress_nobody, regress_emitter, regress_reader, regress_admin;
