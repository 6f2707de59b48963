-- pgbench: a client changes an order, and changes its mind.
\set id random(1, 10000)
BEGIN;
UPDATE orders SET state = 'lost', version = version + 1 WHERE id = :id;
ROLLBACK;
