-- The tables of listener.c.

-- How far each listener is.
CREATE TABLE listener (
	name		text	PRIMARY KEY,
	position	bigint	NOT NULL
);

-- What it does with an event: it makes a note.  There is no unique key here,
-- so that an event handled twice would be seen.
CREATE TABLE handled (
	listener	text		NOT NULL,
	position	bigint		NOT NULL,
	id			bigint		NOT NULL,
	type		text		NOT NULL,
	key			text,
	payload		jsonb		NOT NULL,
	received_at	timestamptz	NOT NULL,
	notified	boolean		NOT NULL	-- or else read from the feed
);
