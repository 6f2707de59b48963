-- What the transactions of commit and latency work on.
CREATE TABLE account (id integer PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50);
INSERT INTO account SELECT i, 0 FROM generate_series(1, 100000) i;

-- The outbox that an application would have made for itself.
CREATE TABLE outbox (
	id			bigserial	PRIMARY KEY,
	type		text		NOT NULL,
	key			text,
	payload		jsonb		NOT NULL,
	headers		jsonb		NOT NULL DEFAULT '{}',
	created_at	timestamptz	NOT NULL DEFAULT clock_timestamp()
);

VACUUM ANALYZE account;
