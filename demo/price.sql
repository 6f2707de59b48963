-- Three tables that differ in their trigger, to see what a trigger costs.

CREATE TABLE price_alone (LIKE orders INCLUDING ALL);
CREATE TABLE price_eventstore (LIKE orders INCLUDING ALL);
CREATE TABLE price_notify (LIKE orders INCLUDING ALL);

INSERT INTO price_alone SELECT id FROM generate_series(1, 10000) AS id;
INSERT INTO price_eventstore SELECT * FROM price_alone;
INSERT INTO price_notify SELECT * FROM price_alone;

CREATE TRIGGER captured AFTER UPDATE ON price_eventstore
	FOR EACH ROW EXECUTE FUNCTION eventstore.capture('type=price.{state}', 'key=price-{id}');
SELECT eventstore.subscribe('price', 'notify:price', types => '{price.*}');

CREATE TRIGGER notified AFTER UPDATE ON price_notify
	FOR EACH ROW EXECUTE FUNCTION plain_notify();
