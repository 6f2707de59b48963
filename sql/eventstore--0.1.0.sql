-- eventstore 0.1.0
\echo Use "CREATE EXTENSION eventstore" to load this file. \quit

-- Everything here is schema-qualified, and nothing is created OR REPLACE or
-- IF NOT EXISTS: an object somebody put in our way beforehand is an error, not
-- something to adopt.  That leaves the schema itself, which CREATE EXTENSION
-- takes as it finds it; its owner could drop or replace what lies in it.
DO $$
BEGIN
	IF EXISTS (SELECT FROM pg_catalog.pg_namespace n
			   WHERE n.nspname OPERATOR(pg_catalog.=) 'eventstore'
				 AND n.nspowner OPERATOR(pg_catalog.<>)
					 (SELECT r.oid FROM pg_catalog.pg_roles r
					  WHERE r.rolname OPERATOR(pg_catalog.=) current_user)) THEN
		RAISE EXCEPTION 'schema "eventstore" exists already and belongs to another role'
			USING ERRCODE = 'duplicate_schema',
				  HINT = 'Drop or rename it, then try again.';
	END IF;
END
$$;

CREATE SCHEMA eventstore_internal;
COMMENT ON SCHEMA eventstore IS 'transactional outbox and event forwarder';
COMMENT ON SCHEMA eventstore_internal IS 'eventstore''s bookkeeping and the partitions of eventstore.event; not for direct use';

GRANT USAGE ON SCHEMA eventstore TO PUBLIC;

--
-- The store
--

CREATE SEQUENCE eventstore_internal.event_id AS bigint CACHE 1 NO CYCLE;
COMMENT ON SEQUENCE eventstore_internal.event_id IS 'ids of events; drawn after the transaction has its xid, never set back';

-- The parent has no index of its own: each partition brings its primary key
-- (id) and its index (xid) WHERE run IS NOT NULL.  A parent primary key plus
-- partitions made at run time makes pg_restore fail with "multiple primary keys".
CREATE TABLE eventstore.event (
	id			bigint		NOT NULL,
	xid			xid8,
	emitted_at	timestamptz	NOT NULL,
	run			integer,
	type		text		NOT NULL,
	key			text,
	payload		jsonb		NOT NULL,
	headers		jsonb		NOT NULL
) PARTITION BY RANGE (id);
COMMENT ON TABLE eventstore.event IS 'the outbox: every event, written by the transaction it reports on';
COMMENT ON COLUMN eventstore.event.id IS 'names the event for ever; in order of emission, with gaps';
COMMENT ON COLUMN eventstore.event.xid IS 'top-level transaction that emitted the event; NULL when the row was restored or copied';
COMMENT ON COLUMN eventstore.event.emitted_at IS 'clock time of the call that emitted the event';
COMMENT ON COLUMN eventstore.event.run IS 'how many events, this one and those with the next ids, were written at once; NULL: it is one of those';
COMMENT ON COLUMN eventstore.event.type IS 'what happened, e.g. order.canceled';
COMMENT ON COLUMN eventstore.event.key IS 'what it happened to, e.g. orders-42; events of one key keep their order';
COMMENT ON COLUMN eventstore.event.payload IS 'the fact itself';
COMMENT ON COLUMN eventstore.event.headers IS 'a JSON object about the event: who, why, trace';

CREATE TABLE eventstore_internal.segment (
	first_position	bigint		PRIMARY KEY,
	first_id		bigint		NOT NULL,
	event_count		integer		NOT NULL,
	sealed_at		timestamptz	NOT NULL
);
COMMENT ON TABLE eventstore_internal.segment IS 'the feed: positions [first_position, first_position + event_count) are ids [first_id, first_id + event_count)';

CREATE TABLE eventstore_internal.pass (
	pass			bigint		PRIMARY KEY,
	snapshot		pg_snapshot	NOT NULL,
	next_position	bigint		NOT NULL,
	floor_xid		xid8[]		NOT NULL,
	floor_id		bigint[]	NOT NULL
);
COMMENT ON TABLE eventstore_internal.pass IS 'one row per sealing pass that found events; the last one is the sequencer''s whole state';

CREATE TABLE eventstore_internal.epoch (
	first_position		bigint		PRIMARY KEY,
	previous_head		bigint		NOT NULL,
	system_identifier	bigint		NOT NULL,
	timeline			integer		NOT NULL,
	database			oid			NOT NULL,
	reason				text		NOT NULL,
	started_at			timestamptz	NOT NULL
);
COMMENT ON TABLE eventstore_internal.epoch IS 'unbroken histories of the store: ids and positions of an epoch begin at its first_position, those of the one before ended at previous_head';

CREATE TABLE eventstore_internal.idempotency (
	key		text	PRIMARY KEY,
	id		bigint	NOT NULL
);
COMMENT ON TABLE eventstore_internal.idempotency IS 'which event an idempotency key of emit_once() led to';

-- Rows that did not come through emit() (restored, copied, replicated) carry
-- the xid of another cluster or none at all.  emit() does not fire triggers.
CREATE FUNCTION eventstore_internal.forget_xid() RETURNS trigger
	LANGUAGE c AS 'MODULE_PATHNAME', 'es_forget_xid';
COMMENT ON FUNCTION eventstore_internal.forget_xid() IS 'clears the xid of an event that was not written by emit()';
CREATE TRIGGER forget_xid BEFORE INSERT ON eventstore.event
	FOR EACH ROW EXECUTE FUNCTION eventstore_internal.forget_xid();
ALTER TABLE eventstore.event ENABLE ALWAYS TRIGGER forget_xid;

--
-- Subscriptions
--

CREATE TABLE eventstore.subscription (
	id				integer		GENERATED ALWAYS AS IDENTITY UNIQUE,
	name			text		PRIMARY KEY,
	endpoint		text		NOT NULL,
	types			text[]		NOT NULL,
	filter			jsonpath,
	owner			regrole		NOT NULL,
	state			text		NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'paused')),
	state_reason	text,
	created_at		timestamptz	NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE eventstore.subscription IS 'who wants which events, and where to';
COMMENT ON SEQUENCE eventstore.subscription_id_seq IS 'ids of subscriptions';
COMMENT ON COLUMN eventstore.subscription.id IS 'names the subscription in its progress; a name used again gets a new one';
COMMENT ON COLUMN eventstore.subscription.name IS 'chosen by its owner, unique';
COMMENT ON COLUMN eventstore.subscription.endpoint IS 'target, e.g. notify:orders';
COMMENT ON COLUMN eventstore.subscription.types IS 'type patterns, any of which selects an event';
COMMENT ON COLUMN eventstore.subscription.filter IS 'jsonpath on the payload; false, null or nothing: the event is not wanted';
COMMENT ON COLUMN eventstore.subscription.owner IS 'role that subscribed';
COMMENT ON COLUMN eventstore.subscription.state IS 'active or paused';
COMMENT ON COLUMN eventstore.subscription.state_reason IS 'why it is paused';
COMMENT ON COLUMN eventstore.subscription.created_at IS 'when it was made';

-- Appended to by the one worker that serves the subscription, in the same
-- transaction as the effect; the row with the highest step counts.
CREATE TABLE eventstore_internal.progress (
	subscription	integer		NOT NULL,
	step			bigint		NOT NULL,
	position		bigint		NOT NULL,
	previous		bigint		NOT NULL,
	delivered		bigint		NOT NULL,
	recorded_at		timestamptz	NOT NULL,
	PRIMARY KEY (subscription, step)
);
COMMENT ON TABLE eventstore_internal.progress IS 'how far each subscription is, appended; position: all before is done; previous: last position delivered, or where it began';

-- Whatever way the table changes, a restore included: the dispatcher hears of it.
CREATE FUNCTION eventstore_internal.subscription_changed() RETURNS trigger
	LANGUAGE c AS 'MODULE_PATHNAME', 'es_subscription_changed';
COMMENT ON FUNCTION eventstore_internal.subscription_changed() IS 'tells the dispatcher, at commit, that subscriptions changed';
CREATE TRIGGER subscription_changed
	AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON eventstore.subscription
	FOR EACH STATEMENT EXECUTE FUNCTION eventstore_internal.subscription_changed();
ALTER TABLE eventstore.subscription ENABLE ALWAYS TRIGGER subscription_changed;

CREATE FUNCTION eventstore.subscribe(
	name text,
	endpoint text,
	types text[] DEFAULT '{*}',
	filter jsonpath DEFAULT NULL,
	start_after bigint DEFAULT NULL,
	replace boolean DEFAULT false) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'es_subscribe';
COMMENT ON FUNCTION eventstore.subscribe(text, text, text[], jsonpath, bigint, boolean) IS 'has events delivered to an endpoint, from now on or from after a position; repeating it changes nothing';

CREATE FUNCTION eventstore.alter_subscription(name text, changes jsonb) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'es_alter_subscription';
COMMENT ON FUNCTION eventstore.alter_subscription(text, jsonb) IS 'changes a subscription''s endpoint, types or filter, and keeps its progress';

CREATE FUNCTION eventstore.unsubscribe(name text, if_exists boolean DEFAULT false) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'es_unsubscribe';
COMMENT ON FUNCTION eventstore.unsubscribe(text, boolean) IS 'ends a subscription and forgets its progress';

CREATE FUNCTION eventstore.pause(name text, reason text DEFAULT NULL) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'es_pause';
COMMENT ON FUNCTION eventstore.pause(text, text) IS 'delivers nothing to a subscription until resume(); its events are kept';

CREATE FUNCTION eventstore.resume(name text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'es_resume';
COMMENT ON FUNCTION eventstore.resume(text) IS 'delivers what has come since pause(), and goes on';

-- A function in a view runs with the privileges of whoever selects from the
-- view.  This one shows itself to whoever may do that.
CREATE FUNCTION eventstore_internal.subscription_status() RETURNS TABLE (
	name text,
	endpoint text,
	types text[],
	owner regrole,
	state text,
	state_reason text,
	"position" bigint,
	lag_events bigint,
	lag interval,
	delivered bigint,
	last_success_at timestamptz,
	last_error text,
	last_error_at timestamptz)
	LANGUAGE c VOLATILE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'es_subscription_status';
COMMENT ON FUNCTION eventstore_internal.subscription_status() IS 'the rows of eventstore.subscription_status, for those who may select from it';

CREATE VIEW eventstore.subscription_status AS
	SELECT s.name, s.endpoint, s.types, s.owner, s.state, s.state_reason, s.position, s.lag_events,
		   s.lag, s.delivered, s.last_success_at, s.last_error, s.last_error_at
	FROM eventstore_internal.subscription_status() s;
COMMENT ON VIEW eventstore.subscription_status IS 'subscriptions and how far they are; where nothing matched, the figures may be a second old';
COMMENT ON COLUMN eventstore.subscription_status.name IS 'the subscription';
COMMENT ON COLUMN eventstore.subscription_status.endpoint IS 'target, e.g. notify:orders';
COMMENT ON COLUMN eventstore.subscription_status.types IS 'type patterns, any of which selects an event';
COMMENT ON COLUMN eventstore.subscription_status.owner IS 'role that subscribed';
COMMENT ON COLUMN eventstore.subscription_status.state IS 'active, paused, or stalled: active, but nothing is delivered at present';
COMMENT ON COLUMN eventstore.subscription_status.state_reason IS 'why it is paused or stalled';
COMMENT ON COLUMN eventstore.subscription_status.position IS 'everything in the feed up to here is done';
COMMENT ON COLUMN eventstore.subscription_status.lag_events IS 'events in the feed behind that, wanted or not';
COMMENT ON COLUMN eventstore.subscription_status.lag IS 'for how long the first of them has been in the feed; 0 when there is none';
COMMENT ON COLUMN eventstore.subscription_status.delivered IS 'events delivered since it was made';
COMMENT ON COLUMN eventstore.subscription_status.last_success_at IS 'when it last got on, by an event delivered or passed over';
COMMENT ON COLUMN eventstore.subscription_status.last_error IS 'why delivery fails at present; NULL when it does not';
COMMENT ON COLUMN eventstore.subscription_status.last_error_at IS 'when that was last tried';

--
-- Emit
--

CREATE FUNCTION eventstore.emit(
	type text,
	payload jsonb DEFAULT '{}',
	key text DEFAULT NULL,
	headers jsonb DEFAULT '{}',
	deliver_at timestamptz DEFAULT NULL) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'es_emit';
COMMENT ON FUNCTION eventstore.emit(text, jsonb, text, jsonb, timestamptz) IS 'writes an event in the current transaction; returns its id';

CREATE FUNCTION eventstore.emit_once(
	idempotency_key text,
	type text,
	payload jsonb DEFAULT '{}',
	key text DEFAULT NULL,
	headers jsonb DEFAULT '{}',
	deliver_at timestamptz DEFAULT NULL) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'es_emit_once';
COMMENT ON FUNCTION eventstore.emit_once(text, text, jsonb, text, jsonb, timestamptz) IS 'like emit(), once per idempotency key: a repeat returns the first event''s id and writes nothing';

CREATE FUNCTION eventstore.emit_batch(events jsonb) RETURNS SETOF bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'es_emit_batch';
COMMENT ON FUNCTION eventstore.emit_batch(jsonb) IS 'emits a JSON array of {"type", "payload", "key", "headers"}; returns their ids in the same order';

--
-- Capture
--

CREATE FUNCTION eventstore.capture() RETURNS trigger
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'es_capture';
COMMENT ON FUNCTION eventstore.capture() IS 'trigger function, AFTER ROW or AFTER STATEMENT with transition tables: emits an event per changed row; arguments type= key= columns= changed= old= payload=';

CREATE FUNCTION eventstore.capture_table(
	target regclass,
	key text DEFAULT NULL,
	type text DEFAULT '{table}.{op}',
	ops text[] DEFAULT '{insert,update,delete}',
	columns text[] DEFAULT NULL,
	changed text[] DEFAULT NULL,
	old boolean DEFAULT true) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'es_capture_table';
COMMENT ON FUNCTION eventstore.capture_table(regclass, text, text, text[], text[], text[], boolean) IS 'captures a table: creates statement triggers that call capture(), or replaces those of an earlier call';

CREATE FUNCTION eventstore.uncapture_table(target regclass) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'es_uncapture_table';
COMMENT ON FUNCTION eventstore.uncapture_table(regclass) IS 'drops the triggers that capture_table() created';

--
-- The feed
--

CREATE TYPE eventstore.recorded_event AS (
	position	bigint,
	id			bigint,
	type		text,
	key			text,
	payload		jsonb,
	headers		jsonb,
	emitted_at	timestamptz
);
COMMENT ON TYPE eventstore.recorded_event IS 'an event with its place in the feed';

CREATE FUNCTION eventstore.seal() RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'es_seal';
COMMENT ON FUNCTION eventstore.seal() IS 'gives newly committed events their positions, as the dispatcher does all the time; returns how many';

CREATE FUNCTION eventstore.head() RETURNS bigint
	LANGUAGE c STABLE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'es_head';
COMMENT ON FUNCTION eventstore.head() IS 'position of the last event in the feed; 0 when there is none';

CREATE FUNCTION eventstore.read(
	after bigint DEFAULT 0,
	max_events integer DEFAULT 100,
	types text[] DEFAULT '{*}',
	upto bigint DEFAULT NULL) RETURNS SETOF eventstore.recorded_event
	LANGUAGE c STABLE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'es_read';
COMMENT ON FUNCTION eventstore.read(bigint, integer, text[], bigint) IS 'events with after < position <= upto, in feed order, at most max_events of the given types';

CREATE FUNCTION eventstore.tail(
	max_events integer DEFAULT 10,
	types text[] DEFAULT '{*}') RETURNS SETOF eventstore.recorded_event
	LANGUAGE c STABLE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'es_tail';
COMMENT ON FUNCTION eventstore.tail(integer, text[]) IS 'the last max_events events of the given types, in feed order';

CREATE FUNCTION eventstore.position_at(at timestamptz) RETURNS bigint
	LANGUAGE c STABLE STRICT PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'es_position_at';
COMMENT ON FUNCTION eventstore.position_at(timestamptz) IS 'position of the last event sealed at or before the given time; read(after => it) continues from there';

--
-- Dump and restore
--
-- Rows are dumped, and what numbers them.  eventstore.event has none of its own:
-- its partitions are ordinary tables to pg_dump.
--

SELECT pg_catalog.pg_extension_config_dump('eventstore_internal.event_id', '');
SELECT pg_catalog.pg_extension_config_dump('eventstore_internal.segment', '');
SELECT pg_catalog.pg_extension_config_dump('eventstore_internal.pass', '');
SELECT pg_catalog.pg_extension_config_dump('eventstore_internal.epoch', '');
SELECT pg_catalog.pg_extension_config_dump('eventstore_internal.idempotency', '');
SELECT pg_catalog.pg_extension_config_dump('eventstore.subscription', '');
SELECT pg_catalog.pg_extension_config_dump('eventstore.subscription_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('eventstore_internal.progress', '');

--
-- Start
--

CREATE FUNCTION eventstore_internal.installed() RETURNS void
	LANGUAGE c AS 'MODULE_PATHNAME', 'es_installed';
COMMENT ON FUNCTION eventstore_internal.installed() IS 'called by the install script: starts the dispatcher at commit, or warns that none will run';

--
-- Privileges
--
-- PUBLIC may use the schema and nothing in it: functions are granted to those
-- who emit, read or administer, and nobody reads or writes the tables by hand.
--

REVOKE ALL ON SCHEMA eventstore_internal FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA eventstore, eventstore_internal FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA eventstore, eventstore_internal FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA eventstore, eventstore_internal FROM PUBLIC;
GRANT EXECUTE ON FUNCTION eventstore_internal.subscription_status() TO PUBLIC;

-- Starts the dispatcher when this commits.
SELECT eventstore_internal.installed();
