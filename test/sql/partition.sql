-- Partitions made by an emit, where something is in the way.
--
-- Making one is DDL in somebody's business transaction.  Event triggers that
-- audit or forbid DDL do not mean that, and must not make the transaction fail.
-- One that audits by emitting would even call for the partition that is being
-- made.  Likewise a partition that was detached and kept has taken its name.

SET client_min_messages = error;
CREATE EXTENSION eventstore;
RESET client_min_messages;
\pset format unaligned
\pset tuples_only

CREATE FUNCTION audit() RETURNS event_trigger LANGUAGE plpgsql AS
	$$BEGIN PERFORM eventstore.emit('ddl', jsonb_build_object('tag', tg_tag)); END$$;
CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS
	$$BEGIN RAISE 'DDL is forbidden'; END$$;

-- an audit trigger: the first partition is made below it
CREATE EVENT TRIGGER audit ON ddl_command_end EXECUTE FUNCTION audit();
CREATE TABLE t ();
SELECT eventstore.emit('a');
SELECT type, payload FROM eventstore.event ORDER BY id;
DROP EVENT TRIGGER audit;

-- DDL is forbidden
CREATE EVENT TRIGGER forbid ON ddl_command_start EXECUTE FUNCTION forbid();
SELECT setval('eventstore_internal.event_id', 999999);
SELECT eventstore.emit('b');
SHOW session_replication_role;
DROP TABLE t;
DROP EVENT TRIGGER forbid;
DROP TABLE t;

-- a partition that was detached keeps its name
ALTER TABLE eventstore.event DETACH PARTITION eventstore_internal.event_1000000;
SELECT eventstore.emit('c');
ALTER TABLE eventstore.event DETACH PARTITION eventstore_internal.event_1000000_2;
SELECT eventstore.emit('d');
SELECT tableoid::regclass, id, type FROM eventstore.event WHERE type < 'ddl' ORDER BY id;
SELECT eventstore.seal();

DROP FUNCTION audit, forbid;
DROP TABLE eventstore_internal.event_1000000, eventstore_internal.event_1000000_2;
SET client_min_messages = error;
DROP EXTENSION eventstore CASCADE;
