/*
 * sequencer.h
 *		Gives committed events their places in the feed.
 */
#ifndef ES_SEQUENCER_H
#define ES_SEQUENCER_H

extern int64 es_seal_pass(void);

#endif							/* ES_SEQUENCER_H */
