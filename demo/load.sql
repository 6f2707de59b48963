-- pgbench: a client changes an order, and writes down that it did.
\set id random(1, 10000)
WITH o AS (
	UPDATE orders SET state = CASE state WHEN 'paid' THEN 'packed' ELSE 'paid' END, version = version + 1
	WHERE id = :id RETURNING id, version)
INSERT INTO ledger SELECT id, version FROM o;
