/*
 * subscription.h
 *		Who wants which events, and where to.
 */
#ifndef ES_SUBSCRIPTION_H
#define ES_SUBSCRIPTION_H

#include "nodes/pg_list.h"
#include "utils/snapshot.h"

#include "extension/endpoint.h"
#include "extension/event_type.h"
#include "extension/filter.h"

/* A subscription as its worker needs it, with its last recorded progress. */
typedef struct EsSubscription
{
	int32		id;
	char	   *name;
	EsEndpoint	endpoint;
	EsTypeFilter *types;
	JsonPath   *filter;			/* NULL: none */
	bool		active;			/* false: paused, or its progress is lost */
	int64		step;			/* number of the last row of progress */
	int64		position;		/* all up to here is done; -1: its progress is lost */
	int64		previous;		/* last position delivered, or where it began */
	int64		delivered;		/* how many */
} EsSubscription;

extern List *es_subscription_load(Snapshot snapshot);

#endif							/* ES_SUBSCRIPTION_H */
