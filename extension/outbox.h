/*
 * outbox.h
 *		Writes events into eventstore.event.
 */
#ifndef ES_OUTBOX_H
#define ES_OUTBOX_H

#include "utils/jsonb.h"

/* Longest key, in bytes; longest type, in characters (they are all ASCII). */
#define ES_MAX_KEY_LENGTH 1000
#define ES_MAX_TYPE_LENGTH 200

/* An event to be written.  Whoever makes one has checked its parts. */
typedef struct EsNewEvent
{
	text	   *type;
	text	   *key;			/* NULL: no order asked */
	Jsonb	   *payload;
	Jsonb	   *headers;		/* an object; NULL: none */
} EsNewEvent;

extern void es_outbox_init(void);
extern int64 es_outbox_append(const EsNewEvent *events, int count);
extern int64 es_outbox_append_once(text *idempotency_key, const EsNewEvent *event);

#endif							/* ES_OUTBOX_H */
