/*
 * notifier.c
 *		Delivers events to notify: subscriptions.
 *
 * Runs in the dispatcher, after each pass.  One notification per event and
 * subscription, in feed order; notifications and progress commit together, in
 * a transaction of their own, so that when NOTIFY cannot (its queue is full
 * because some listener idles in a transaction), neither users nor sealing
 * stop: notifications wait and are tried again.
 *
 * That transaction commits without waiting for its flush.  The events are
 * durable; a crash ends all LISTEN sessions anyway, and takes back at most the
 * progress, so that some events are notified again, with the same positions.
 *
 * Subscriptions stand together at the same position most of the time, so
 * events are read once for all that do; one that is behind (paused, or begun
 * in the past) is read for on its own, a page at a time, without holding up
 * the others.
 *
 * Progress is held in memory by this one writer, and set there only when the
 * transaction that recorded it has committed.  Progress over events that a
 * subscription did not want is recorded at the next poll: losing it costs
 * another look at them, no more.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "storage/procsignal.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "extension/catalog.h"
#include "extension/compat.h"
#include "extension/feed.h"
#include "extension/own_statements.h"
#include "extension/progress.h"
#include "extension/settings.h"
#include "extension/shared_state.h"
#include "extension/subscription.h"
#include "worker/notifier.h"

/* Events read, for one group of subscriptions, in one transaction. */
#define EVENTS_PER_PAGE 500

/* The same, in bytes of notifications: they are held in memory until the commit. */
#define BYTES_PER_PAGE (4 * 1024 * 1024)

/* NOTIFY takes payloads of fewer bytes than this (async.c). */
#define NOTIFY_LIMIT 8000

/* Milliseconds to wait after notifications failed. */
#define RETRY_INTERVAL 1000

/* Blocks of the progress table from which it is rewritten. */
#define PROGRESS_BLOCKS 1024

/* A subscription that is served. */
typedef struct Served
{
	EsSubscription sub;			/* as of the last commit */
	EsSubscription next;		/* as the transaction at hand will leave it */
	bool		changed;		/* does `next` differ? */
	int64		recorded_position;	/* of the last row in the progress table */
} Served;

static MemoryContext served_context;	/* holds all below */
static Served *served;
static int	nserved;
static bool loaded = false;		/* is `served` what the table says? */
static Oid	subscription_relid;
static TimestampTz retry_at = 0;	/* notifications failed; not before this */
static int	page_size = EVENTS_PER_PAGE;	/* smaller while notifications fail */

static void
subscriptions_changed(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == subscription_relid)
		loaded = false;
}

void
es_notifier_init(void)
{
	served_context = AllocSetContextCreate(TopMemoryContext, "eventstore subscriptions",
										   ALLOCSET_DEFAULT_SIZES);
	CacheRegisterRelcacheCallback(subscriptions_changed, (Datum) 0);
}

/*
 * Read the subscriptions, unless what we have is current.  Set `loaded` before
 * reading: a change that comes in meanwhile makes us read again.
 */
static void
load_subscriptions(void)
{
	MemoryContext old;
	List	   *list;
	ListCell   *lc;

	if (loaded)
		return;

	subscription_relid = es_relation_oid(ES_SUBSCRIPTION);
	nserved = 0;
	MemoryContextReset(served_context);
	loaded = true;

	old = MemoryContextSwitchTo(served_context);
	list = es_subscription_load(GetActiveSnapshot());
	served = palloc0_array(Served, list_length(list) + 1);
	foreach(lc, list)
	{
		EsSubscription *sub = lfirst(lc);

		if (sub->active && sub->endpoint.transport == ES_TRANSPORT_NOTIFY)
		{
			served[nserved].sub = *sub;
			served[nserved++].recorded_position = sub->position;
		}
	}
	MemoryContextSwitchTo(old);
}

/* Append  ,"name":  and a JSON string. */
static void
append_member(StringInfo buf, const char *name, const char *value)
{
	appendStringInfo(buf, ",\"%s\":", name);
	escape_json(buf, value);
}

/*
 * Make the notification of the feed's current event for a subscription.  One
 * that would be too long for NOTIFY goes without its payload; one that is too
 * long even so, without its headers.
 */
static void
make_notification(StringInfo buf, const EsSubscription *sub, const EsFeed *feed)
{
	char		timestamp[MAXDATELEN + 1];
	Datum		value;
	bool		isnull;
	int			core;			/* length without headers and payload */
	int			with_headers;
	Jsonb	   *json;

	resetStringInfo(buf);
	appendStringInfoString(buf, "{\"subscription\":");
	escape_json(buf, sub->name);
	appendStringInfo(buf, ",\"position\":" INT64_FORMAT ",\"previous\":" INT64_FORMAT ",\"id\":" INT64_FORMAT,
					 feed->position, sub->previous,
					 DatumGetInt64(slot_getattr(feed->slot, Anum_event_id, &isnull)));
	append_member(buf, "type", TextDatumGetCString(slot_getattr(feed->slot, Anum_event_type, &isnull)));
	value = slot_getattr(feed->slot, Anum_event_key, &isnull);
	if (isnull)
		appendStringInfoString(buf, ",\"key\":null");
	else
		append_member(buf, "key", TextDatumGetCString(value));
	value = slot_getattr(feed->slot, Anum_event_emitted_at, &isnull);
	append_member(buf, "emitted_at", JsonEncodeDateTime(timestamp, value, TIMESTAMPTZOID, NULL));
	core = buf->len;

	json = DatumGetJsonbP(slot_getattr(feed->slot, Anum_event_headers, &isnull));
	appendStringInfoString(buf, ",\"headers\":");
	(void) JsonbToCString(buf, &json->root, VARSIZE(json));
	with_headers = buf->len;

	json = DatumGetJsonbP(slot_getattr(feed->slot, Anum_event_payload, &isnull));
	appendStringInfoString(buf, ",\"payload\":");
	(void) JsonbToCString(buf, &json->root, VARSIZE(json));
	appendStringInfoChar(buf, '}');

	if (buf->len >= NOTIFY_LIMIT)
	{
		static const char truncated[] = ",\"truncated\":true}";

		buf->len = with_headers + sizeof(truncated) <= NOTIFY_LIMIT ? with_headers : core;
		appendStringInfoString(buf, truncated);
	}
}

static bool
wants(const EsSubscription *sub, const EsFeed *feed)
{
	bool		isnull;
	text	   *type = DatumGetTextPP(slot_getattr(feed->slot, Anum_event_type, &isnull));

	if (!es_type_filter_matches(sub->types, VARDATA_ANY(type), VARSIZE_ANY_EXHDR(type)))
		return false;
	return sub->filter == NULL ||
		es_filter_matches(sub->filter,
						  DatumGetJsonbP(slot_getattr(feed->slot, Anum_event_payload, &isnull)));
}

/* Record the progress of all that changed, in the current transaction. */
static void
record_progress(bool also_unwanted)
{
	const EsSubscription **subs = palloc_array(const EsSubscription *, nserved + 1);
	int			n = 0;

	for (int i = 0; i < nserved; i++)
	{
		Served	   *s = &served[i];

		if (!s->changed ||
			(!also_unwanted && s->next.delivered == s->sub.delivered))
			continue;
		s->next.step++;
		subs[n++] = &s->next;
	}
	es_progress_write(subs, n);
	pfree(subs);
}

/* What record_progress() recorded has committed. */
static void
accept_progress(void)
{
	for (int i = 0; i < nserved; i++)
	{
		Served	   *s = &served[i];

		if (!s->changed)
			continue;
		if (s->next.step != s->sub.step)
			s->recorded_position = s->next.position;
		s->sub = s->next;
		s->changed = false;
	}
}

/* The transaction rolled back. */
static void
forget_progress(void)
{
	for (int i = 0; i < nserved; i++)
		served[i].changed = false;
}

/* Read one page after `position` for the subscriptions that stand there. */
static void
notify_page(int64 position, int64 head)
{
	MemoryContext event_context = AllocSetContextCreate(CurrentMemoryContext,
														"eventstore notification",
														ALLOCSET_DEFAULT_SIZES);
	int64		reached = head;
	int			nevents = 0;
	int64		nbytes = 0;
	EsFeed		feed;
	StringInfoData buf;

	for (int i = 0; i < nserved; i++)
	{
		if (served[i].sub.position == position)
		{
			served[i].next = served[i].sub;
			served[i].changed = true;
		}
	}

	initStringInfo(&buf);
	es_feed_begin(&feed, GetActiveSnapshot(), position, head);
	while (es_feed_next(&feed))
	{
		MemoryContext old = MemoryContextSwitchTo(event_context);

		for (int i = 0; i < nserved; i++)
		{
			EsSubscription *sub = &served[i].next;

			if (!served[i].changed || !wants(sub, &feed))
				continue;
			make_notification(&buf, sub, &feed);
			Async_Notify(sub->endpoint.target, buf.data);
			nbytes += buf.len;
			sub->previous = feed.position;
			sub->delivered++;
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(event_context);

		if (++nevents == page_size || nbytes >= BYTES_PER_PAGE)
		{
			reached = feed.position;
			break;
		}
	}
	es_feed_end(&feed);

	for (int i = 0; i < nserved; i++)
	{
		if (served[i].changed)
			served[i].next.position = reached;
	}
	pfree(buf.data);
	MemoryContextDelete(event_context);

	if (es_debug_fail_notify)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("notifications fail because eventstore.debug_fail_notify is set")));
}

/* The highest position below `bound` at which subscriptions stand; -1: none. */
static int64
last_position_below(int64 bound)
{
	int64		last = -1;

	for (int i = 0; i < nserved; i++)
	{
		if (served[i].sub.position < bound)
			last = Max(last, served[i].sub.position);
	}
	return last;
}

/*
 * One page for each group of subscriptions that stand at the same position,
 * each in a transaction of its own; those in front first, so that nobody who
 * is far behind keeps us here.  Returns whether there is more.
 */
static bool
notify_groups(void)
{
	int64		position = PG_INT64_MAX;
	int64		head;

	for (;;)
	{
		StartTransactionCommand();
		if (!es_extension_lock())
		{
			CommitTransactionCommand();
			return false;
		}
		PushActiveSnapshot(GetTransactionSnapshot());

		/* What the relcache callback said is in effect since the transaction began. */
		load_subscriptions();
		head = nserved > 0 ? es_feed_head(GetActiveSnapshot()) : 0;
		position = last_position_below(Min(position, head));
		if (position >= 0)
		{
			(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
									 GUC_ACTION_LOCAL, true, 0, false);
			notify_page(position, head);
			record_progress(false);
		}
		PopActiveSnapshot();
		CommitTransactionCommand();
		accept_progress();

		/* Most of the time there was one group, and needs no second look. */
		if (position < 0 || (loaded && last_position_below(position) < 0))
			return last_position_below(head) >= 0;
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Have all listeners read NOTIFY's queue.  What a transaction put there that
 * failed because the queue was full stays there until every listener has passed
 * over it, and only a transaction that succeeds tells them to look: the queue
 * would stay full for good.
 */
static void
wake_listeners(void)
{
	for (int i = 0; i < ProcGlobal->allProcCount; i++)
	{
		PGPROC	   *proc = &ProcGlobal->allProcs[i];
		int			pid = proc->pid;

		if (pid != 0 && pid != MyProcPid && OidIsValid(proc->databaseId))
			(void) SendProcSignal(pid, PROCSIG_NOTIFY_INTERRUPT, INVALID_PROC_NUMBER);
	}
}

/*
 * Send what there is to send; returns whether there is more.  Errors do not
 * get out: the dispatcher has other things to do.
 */
bool
es_notifier_run(void)
{
	TimestampTz now = GetCurrentTimestamp();
	MemoryContext context = CurrentMemoryContext;
	volatile bool more = false;

	if (retry_at != 0 && now < retry_at &&
		retry_at - now <= RETRY_INTERVAL * INT64CONST(1000))
		return false;

	/* As a side effect, makes room of what listeners have read; see wake_listeners(). */
	if (retry_at != 0)
		(void) DirectFunctionCall1(pg_notification_queue_usage, (Datum) 0);

	/* As autovacuum does round the tables it works on. */
	PG_TRY();
	{
		more = notify_groups();
		if (!more)
			page_size = EVENTS_PER_PAGE;
		if (retry_at != 0)
		{
			retry_at = 0;
			es_dispatcher_report_error(NULL);
			ereport(LOG, (errmsg("notifications resumed")));
		}
	}
	PG_CATCH();
	{
		ErrorData  *error;

		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (retry_at == 0)
			EmitErrorReport();	/* once per outage */
		AbortOutOfAnyTransaction();
		FlushErrorState();
		MemoryContextSwitchTo(context);
		forget_progress();

		/* One page's notifications may be more than the queue can hold. */
		page_size = Max(page_size / 2, 1);
		wake_listeners();
		loaded = false;			/* they may be what we failed to read */
		es_dispatcher_report_error(error->message);
		FreeErrorData(error);
		retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RETRY_INTERVAL);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	return more;
}

/*
 * Rewrite the progress table when it has grown: only the last row of each
 * subscription counts, and VACUUM cannot help while somebody holds an old
 * snapshot.  If somebody reads or subscribes, another time will do.
 */
static void
rotate_progress_table(void)
{
	Oid			relid = es_relation_oid(ES_PROGRESS);
	Relation	rel;
	BlockNumber blocks;
	List	   *list;
	ListCell   *lc;
	const EsSubscription **subs;
	int			n = 0;
	EsStatements statements;

	rel = table_open(relid, AccessShareLock);
	blocks = RelationGetNumberOfBlocks(rel);
	table_close(rel, NoLock);
	if (blocks < PROGRESS_BLOCKS || !ConditionalLockRelationOid(relid, AccessExclusiveLock))
		return;

	/* A subscribe() that committed before we got the lock must be seen. */
	PushActiveSnapshot(GetLatestSnapshot());
	list = es_subscription_load(GetActiveSnapshot());
	statements = es_statements_begin();
	SPI_execute("TRUNCATE " ES_INTERNAL_SCHEMA ".progress", false, 0);
	es_statements_end(&statements);

	subs = palloc_array(const EsSubscription *, list_length(list) + 1);
	foreach(lc, list)
	{
		EsSubscription *sub = lfirst(lc);

		if (sub->position >= 0)
			subs[n++] = sub;
	}
	es_progress_write(subs, n);
	PopActiveSnapshot();
}

/* What is done once per poll: record progress over unwanted events. */
void
es_notifier_poll(void)
{
	if (!loaded)
		return;

	StartTransactionCommand();
	if (!es_extension_lock())
	{
		CommitTransactionCommand();
		return;
	}
	for (int i = 0; i < nserved; i++)
	{
		served[i].next = served[i].sub;
		served[i].changed = (served[i].sub.position != served[i].recorded_position);
	}
	record_progress(true);
	CommandCounterIncrement();
	rotate_progress_table();
	CommitTransactionCommand();
	accept_progress();
}
