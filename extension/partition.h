/*
 * partition.h
 *		The partitions (leaves) of eventstore.event.
 */
#ifndef ES_PARTITION_H
#define ES_PARTITION_H

#include "nodes/pg_list.h"

/* A leaf holds the events with lower <= id < upper. */
typedef struct EsPartition
{
	Oid			relid;
	int64		lower;
	int64		upper;
} EsPartition;

extern bool es_partition_find(int64 id, EsPartition *found);
extern EsPartition *es_partition_list(int *count);
extern void es_partition_create(int64 id);

#endif							/* ES_PARTITION_H */
