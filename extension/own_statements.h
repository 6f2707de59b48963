/*
 * own_statements.h
 *		SQL statements that the extension runs for itself.
 */
#ifndef ES_OWN_STATEMENTS_H
#define ES_OWN_STATEMENTS_H

#include "utils/resowner.h"

/* What es_statements_begin() changed. */
typedef struct EsStatements
{
	Oid			caller;			/* whom we run for */
	int			caller_context;
	int			guc_level;
	ResourceOwner resource_owner;
} EsStatements;

extern EsStatements es_statements_begin(void);
extern void es_statements_end(const EsStatements *statements);

#endif							/* ES_OWN_STATEMENTS_H */
