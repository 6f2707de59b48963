/*
 * planted_fault.h
 *		Faults that the checker's self-test plants in the sequencer.
 *
 * Each takes away one of the rules that sealing rests on, so that the self-test
 * can see whether the checker notices.  They are there only in a library
 * compiled with -DES_PLANTED_FAULTS, and chosen by eventstore.debug_fault.
 */
#ifndef ES_PLANTED_FAULT_H
#define ES_PLANTED_FAULT_H

typedef enum EsPlantedFault
{
	ES_FAULT_NONE,
	ES_FAULT_DOUBLED_XID,		/* keep an xid that the snapshot holds twice */
	ES_FAULT_FLOOR_AT_XMAX,		/* tie the floor to the snapshot's xmax */
	ES_FAULT_ROWS_UNSEEN,		/* seal rows that the snapshot does not see */
	ES_FAULT_UNFLUSHED_PASS,	/* hand out what a crash can take back */
} EsPlantedFault;

#ifdef ES_PLANTED_FAULTS
extern int	es_debug_fault;

#define es_fault_planted(fault) (es_debug_fault == (fault))
#else
#define es_fault_planted(fault) false
#endif

#endif							/* ES_PLANTED_FAULT_H */
