\set id random(1, 100000)
BEGIN;
UPDATE account SET balance = balance + 1 WHERE id = :id;
SELECT eventstore.emit('account.changed', jsonb_build_object('account', :id::int, 'by', 1), 'account-' || :id::int);
COMMIT;
