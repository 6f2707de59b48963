SELECT max("position") AS after FROM eventstore.read(:after, 1000, upto => :upto) \gset
