SELECT * FROM eventstore.read(:after, 1000, upto => :upto);
\set after :after + 1000
