\set id random(1, 100000)
BEGIN;
UPDATE account SET balance = balance + 1 WHERE id = :id;
SELECT pg_notify('raw', jsonb_build_object('type', 'account.changed', 'key', 'account-' || :id::int, 'payload', jsonb_build_object('account', :id::int, 'by', 1))::text);
COMMIT;
