-- load(n): emits n events in as many transactions, and as many as it takes
-- besides that roll back: a fifth of all.  Called by many sessions at once.
-- Without a client between the statements, millions take minutes.
CREATE PROCEDURE load(n integer, rare_every integer DEFAULT 0)
	LANGUAGE plpgsql AS $$
DECLARE
	emitted integer := 0;
BEGIN
	WHILE emitted < n LOOP
		PERFORM eventstore.emit(
			CASE WHEN rare_every > 0 AND random() * rare_every < 1 THEN 'order.lost' ELSE 'order.changed' END,
			jsonb_build_object('order', emitted, 'state', 'paid', 'total', 99.95),
			'orders-' || emitted);
		IF random() < 0.2 THEN
			ROLLBACK;
		ELSE
			COMMIT;
			emitted := emitted + 1;
		END IF;
	END LOOP;
END
$$;
