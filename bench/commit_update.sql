\set id random(1, 100000)
BEGIN;
UPDATE account SET balance = balance + 1 WHERE id = :id;
SELECT 1 WHERE :id::int > 0;
COMMIT;
