-- The ordinary table that emit is compared with: the columns and indexes that a
-- partition of eventstore.event has, filled by defaults.
CREATE TABLE plain (
	id			bigserial	PRIMARY KEY,
	xid			xid8		DEFAULT pg_current_xact_id(),
	emitted_at	timestamptz	NOT NULL DEFAULT clock_timestamp(),
	type		text		NOT NULL,
	key			text,
	payload		jsonb		NOT NULL,
	headers		jsonb		NOT NULL
);
CREATE INDEX ON plain (xid);
