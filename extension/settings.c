/*
 * settings.c
 *		All settings (eventstore.*), sorted by name.
 */
#include "postgres.h"

#include <limits.h>

#include "access/xact.h"
#include "common/jsonapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "extension/compat.h"
#include "extension/planted_fault.h"
#include "extension/settings.h"

bool		es_debug_fail_notify = false;
#ifdef ES_PLANTED_FAULTS
int			es_debug_fault = ES_FAULT_NONE;
#endif
int			es_partition_size = 1000000;
int			es_poll_interval = 1000;

#ifdef ES_PLANTED_FAULTS
static const struct config_enum_entry planted_faults[] = {
	{"none", ES_FAULT_NONE, false},
	{"doubled_xid", ES_FAULT_DOUBLED_XID, false},
	{"floor_at_xmax", ES_FAULT_FLOOR_AT_XMAX, false},
	{"rows_unseen", ES_FAULT_ROWS_UNSEEN, false},
	{"unflushed_pass", ES_FAULT_UNFLUSHED_PASS, false},
	{NULL, 0, false}
};
#endif

static char *context = NULL;
static Jsonb *parsed_context = NULL;	/* of `context`; NULL: not parsed yet, or empty */

/*
 * Can jsonb hold this?  Not all that is JSON: neither \u0000 nor numbers without
 * bounds.  What goes wrong in there holds no resource, so that no
 * subtransaction is needed to go on.
 */
static bool
is_jsonb(const char *text)
{
	MemoryContext caller_context = CurrentMemoryContext;
	volatile bool result = true;

	PG_TRY();
	{
		(void) DirectFunctionCall1(jsonb_in, CStringGetDatum(text));
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller_context);
		FlushErrorState();
		result = false;
	}
	PG_END_TRY();
	return result;
}

/*
 * eventstore.context: refuse what is not a JSON object where it is set, not in
 * the emit of some later statement.  No error is thrown from here: the hook
 * also runs while a configuration file is read.
 */
static bool
check_context(char **newval, void **extra, GucSource source)
{
	const char *start = *newval;

	while (*start != '\0' && strchr(" \t\r\n", *start) != NULL)
		start++;
	if (*start == '\0')
		return true;

	/* Strings are looked into only where the database's encoding is known. */
	if (*start != '{' ||
		pg_parse_json(es_make_json_lexer(*newval), &nullSemAction) != JSON_SUCCESS ||
		(IsTransactionState() && !is_jsonb(*newval)))
	{
		GUC_check_errdetail("It must be a JSON object, such as {\"user\": \"ann\"}.");
		return false;
	}
	return true;
}

static void
assign_context(const char *newval, void *extra)
{
	if (parsed_context != NULL)
		pfree(parsed_context);
	parsed_context = NULL;
}

/*
 * The headers that the session's eventstore.context adds to every event, or
 * NULL.  Valid until the setting changes.
 */
Jsonb *
es_context_headers(void)
{
	if (likely(context == NULL || context[strspn(context, " \t\r\n")] == '\0'))
		return NULL;

	if (parsed_context == NULL)
	{
		Jsonb	   *parsed = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(context)));
		Jsonb	   *kept = MemoryContextAlloc(TopMemoryContext, VARSIZE(parsed));

		memcpy(kept, parsed, VARSIZE(parsed));
		parsed_context = kept;
	}
	return JB_ROOT_COUNT(parsed_context) == 0 ? NULL : parsed_context;
}

/* Called once per process, while the library is loaded. */
void
es_settings_init(void)
{
	DefineCustomStringVariable("eventstore.context",
							   "JSON object merged under the headers of every event of the session or transaction.",
							   "Set it with SET LOCAL to say who and why, for captured events too.",
							   &context, "", PGC_USERSET, 0,
							   check_context, assign_context, NULL);

	DefineCustomBoolVariable("eventstore.debug_fail_notify",
							 "Makes every notification fail, as a full NOTIFY queue does; for tests.",
							 NULL,
							 &es_debug_fail_notify, false, PGC_SUSET, GUC_NOT_IN_SAMPLE,
							 NULL, NULL, NULL);

#ifdef ES_PLANTED_FAULTS
	DefineCustomEnumVariable("eventstore.debug_fault",
							 "Plants a fault in the sequencer, to test the checker.",
							 NULL,
							 &es_debug_fault, ES_FAULT_NONE, planted_faults, PGC_SUSET, GUC_NOT_IN_SAMPLE,
							 NULL, NULL, NULL);
#endif

	DefineCustomIntVariable("eventstore.partition_size",
							"Number of event ids that one partition of eventstore.event covers.",
							"Partitions that exist keep their bounds.",
							&es_partition_size, 1000000, 1000, INT_MAX, PGC_SUSET, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("eventstore.poll_interval",
							"Longest time between two looks of the dispatcher for committed events.",
							"It is woken at each commit; this catches what has no wake-up, such as COMMIT PREPARED.",
							&es_poll_interval, 1000, 10, 4000, PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);

	MarkGUCPrefixReserved("eventstore");
}
