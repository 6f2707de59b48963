-- Three tables alike, of which two are captured.  Their pages have room for a
-- second version of each row, so that the UPDATE itself costs little.
CREATE TABLE bare (
	id			integer		PRIMARY KEY,
	customer	text		NOT NULL,
	state		text		NOT NULL,
	total		numeric		NOT NULL,
	changed_at	timestamptz	NOT NULL DEFAULT now()
) WITH (fillfactor = 45);
INSERT INTO bare SELECT i, 'customer ' || i % 1000, 'placed', i FROM generate_series(1, :rows) i;
CREATE TABLE by_row (LIKE bare INCLUDING ALL) WITH (fillfactor = 45);
INSERT INTO by_row SELECT * FROM bare;
CREATE TABLE by_statement (LIKE bare INCLUDING ALL) WITH (fillfactor = 45);
INSERT INTO by_statement SELECT * FROM bare;

CREATE TRIGGER capture AFTER UPDATE ON by_row
	FOR EACH ROW EXECUTE FUNCTION eventstore.capture();
CREATE TRIGGER capture AFTER UPDATE ON by_statement
	REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION eventstore.capture();
