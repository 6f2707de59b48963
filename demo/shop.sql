-- The shop that the demo plays in.

CREATE EXTENSION eventstore;

CREATE TABLE orders (
	id		integer	PRIMARY KEY,
	state	text	NOT NULL DEFAULT 'open',
	version	integer	NOT NULL DEFAULT 0
);
INSERT INTO orders SELECT id FROM generate_series(1, 10000) AS id;

-- What clients committed, written in the same transactions.
CREATE TABLE ledger (
	order_id	integer	NOT NULL,
	version		integer	NOT NULL
);

\ir listener.sql

-- What many have today, for comparison.
CREATE FUNCTION plain_notify() RETURNS trigger
	LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_notify('plain', jsonb_build_object(
		'op', 'update', 'table', TG_TABLE_NAME, 'new', to_jsonb(new), 'old', to_jsonb(old))::text);
	RETURN NULL;
END
$$;
