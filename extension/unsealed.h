/*
 * unsealed.h
 *		Finds committed events that have no place in the feed yet.
 */
#ifndef ES_UNSEALED_H
#define ES_UNSEALED_H

#include "access/transam.h"
#include "utils/snapshot.h"

#include "extension/partition.h"

/* Events of transactions with this xid or a later one have ids above `id`. */
typedef struct EsFloor
{
	FullTransactionId xid;
	int64		id;
} EsFloor;

/* Which transactions were running, as of a snapshot. */
typedef struct EsRunning
{
	FullTransactionId xmax;		/* as yet unassigned, then: this xid and above */
	int			nxids;
	const FullTransactionId *xids;	/* running, below xmax; ascending, each once */
} EsRunning;

/* The sequencer's whole state: the last row of eventstore_internal.pass. */
typedef struct EsSealState
{
	int64		pass;			/* number of the last pass; 0: there was none */
	EsRunning	running;		/* at the last pass */
	int64		next_position;
	int			nfloors;
	EsFloor    *floors;			/* ascending */
} EsSealState;

/* Called for each run of unsealed events; false ends the scan. */
typedef bool (*EsUnsealedCallback) (int64 first_id, int count, void *arg);

extern void es_seal_state_read(Snapshot snapshot, EsSealState *state);
extern EsRunning es_running_from_datum(Datum pg_snapshot);
#ifdef ES_PLANTED_FAULTS
extern Datum es_running_with_doubles(Snapshot snapshot);
#endif
extern int64 es_floor(const EsSealState *state, FullTransactionId xid);
extern bool es_is_running(const EsRunning *running, FullTransactionId xid);
extern void es_unsealed_scan(const EsSealState *state, const EsRunning *now, Snapshot snapshot,
							 const EsPartition *partitions, int npartitions,
							 EsUnsealedCallback callback, void *arg);
extern bool es_unsealed_exist(Snapshot snapshot);

#endif							/* ES_UNSEALED_H */
