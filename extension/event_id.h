/*
 * event_id.h
 *		The sequence that names events.
 */
#ifndef ES_EVENT_ID_H
#define ES_EVENT_ID_H

extern int64 es_event_id_draw(int count);
extern void es_event_id_raise(int64 least);
extern int64 es_event_id_last(void);

#endif							/* ES_EVENT_ID_H */
