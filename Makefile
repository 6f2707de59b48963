EXTENSION = eventstore
MODULE_big = eventstore
PGFILEDESC = "eventstore - transactional outbox and event forwarder"
DATA = $(sort $(wildcard sql/*.sql))

# One room per file: extension/ runs in users' backends, worker/ in background workers.
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard extension/*.c worker/*.c)))

PG_CPPFLAGS = -I$(srcdir)
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers -Wshadow=local

REGRESS = $(sort $(patsubst test/sql/%.sql,%,$(wildcard test/sql/*.sql)))
REGRESS_OPTS = --inputdir=test
ISOLATION = $(sort $(patsubst test/specs/%.spec,%,$(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test
TAP_TESTS = 1

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# PGXS does not track headers.
$(OBJS) $(OBJS:.o=.bc): $(wildcard extension/*.h worker/*.h)
