/*
 * commit_wake.h
 *		Tells the workers, once a transaction has committed, that there is work.
 */
#ifndef ES_COMMIT_WAKE_H
#define ES_COMMIT_WAKE_H

extern void es_commit_wake_init(void);
extern void es_commit_wake_mark(void);

#endif							/* ES_COMMIT_WAKE_H */
