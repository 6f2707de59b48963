/*
 * event_id.c
 *		The sequence that names events: eventstore_internal.event_id.
 *
 * It is an ordinary sequence, so that dumps, replicas and crashes treat it as
 * one, but values are drawn here and not with nextval(), for two reasons:
 *
 * - nextval() changes what lastval() returns in the session, and drivers fetch
 *   the key of the row they just inserted with lastval().  A trigger that
 *   emits must not get between the two.
 * - a statement that emits many events takes its ids as one run: one buffer
 *   lock, and a run of consecutive ids becomes one segment of the feed.
 *
 * Nothing is cached per session.  What the sequencer relies on (sequencer.c,
 * "the floor"): an id drawn after last_value was read is above it.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "utils/rel.h"

#include "extension/catalog.h"
#include "extension/compat.h"
#include "extension/event_id.h"

/*
 * How many values beyond those drawn one WAL record covers, as in sequence.c:
 * after a crash the sequence goes on behind them.
 */
#define VALUES_LOGGED_AHEAD 32

/* The lock that drawing takes, and keeps. */
static EsKeptLock kept_lock;

/* The sequence's one tuple, its buffer pinned and locked. */
typedef struct SequencePage
{
	Relation	rel;
	Buffer		buffer;
	HeapTupleData tuple;
	Form_pg_sequence_data data;
} SequencePage;

static void
lock_sequence(SequencePage *seq, LOCKMODE relation_lock, int buffer_lock)
{
	Page		page;
	ItemId		lp;

	seq->rel = relation_open(es_relation_oid(ES_EVENT_ID), relation_lock);
	if (seq->rel->rd_rel->relkind != RELKIND_SEQUENCE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a sequence", RelationGetRelationName(seq->rel))));

	seq->buffer = ReadBuffer(seq->rel, 0);
	LockBuffer(seq->buffer, buffer_lock);
	page = BufferGetPage(seq->buffer);
	lp = PageGetItemId(page, FirstOffsetNumber);
	Assert(ItemIdIsNormal(lp));
	seq->tuple.t_data = (HeapTupleHeader) PageGetItem(page, lp);
	seq->tuple.t_len = ItemIdGetLength(lp);
	seq->data = (Form_pg_sequence_data) GETSTRUCT(&seq->tuple);
}

/* The relation's lock stays until the transaction ends, as nextval() keeps it. */
static void
unlock_sequence(SequencePage *seq)
{
	UnlockReleaseBuffer(seq->buffer);
	relation_close(seq->rel, NoLock);
}

/*
 * Make `last` the last value given out.  `logged` is how many values beyond
 * `last` the WAL covers already; fewer than none, or a checkpoint since, and a
 * new record is written.
 */
static void
set_last_value(SequencePage *seq, int64 last, int64 logged)
{
	Page		page = BufferGetPage(seq->buffer);
	bool		log_it = RelationNeedsWAL(seq->rel) &&
		(logged < 0 || !seq->data->is_called || PageGetLSN(page) <= GetRedoRecPtr());

	/* The commit must flush what it logged, even if it wrote nothing else. */
	if (log_it)
		(void) GetTopTransactionId();

	START_CRIT_SECTION();

	MarkBufferDirty(seq->buffer);
	seq->data->is_called = true;
	if (log_it)
	{
		xl_seq_rec	xlrec;
		XLogRecPtr	lsn;

		seq->data->last_value = last + VALUES_LOGGED_AHEAD;
		seq->data->log_cnt = 0;

		es_set_seq_rec_locator(&xlrec, seq->rel);
		XLogBeginInsert();
		XLogRegisterBuffer(0, seq->buffer, REGBUF_WILL_INIT);
		XLogRegisterData((char *) &xlrec, sizeof(xl_seq_rec));
		XLogRegisterData((char *) seq->tuple.t_data, seq->tuple.t_len);
		lsn = XLogInsert(RM_SEQ_ID, XLOG_SEQ_LOG);
		PageSetLSN(page, lsn);
		logged = VALUES_LOGGED_AHEAD;
	}
	seq->data->last_value = last;
	seq->data->log_cnt = Max(logged, 0);

	END_CRIT_SECTION();
}

/*
 * Draw `count` consecutive ids and return the first.  The caller has assigned
 * its top-level xid already.
 */
int64
es_event_id_draw(int count)
{
	Oid			relid = es_relation_oid(ES_EVENT_ID);
	SequencePage seq;
	int64		last;

	Assert(TransactionIdIsValid(GetTopTransactionIdIfAny()));

	lock_sequence(&seq, es_lock_is_kept(&kept_lock, relid) ? NoLock : RowExclusiveLock,
				  BUFFER_LOCK_EXCLUSIVE);
	es_note_kept_lock(&kept_lock, relid);
	last = seq.data->last_value - (seq.data->is_called ? 0 : 1);
	if (last > PG_INT64_MAX - count - VALUES_LOGGED_AHEAD)
		ereport(ERROR,
				(errcode(ERRCODE_SEQUENCE_GENERATOR_LIMIT_EXCEEDED),
				 errmsg("event ids are exhausted")));
	set_last_value(&seq, last + count, seq.data->log_cnt - count);
	unlock_sequence(&seq);

	return last + 1;
}

/*
 * See to it that all ids drawn from now on are above `least`.  Not undone by
 * ROLLBACK, and never downwards.
 */
void
es_event_id_raise(int64 least)
{
	SequencePage seq;

	lock_sequence(&seq, RowExclusiveLock, BUFFER_LOCK_EXCLUSIVE);
	if (seq.data->last_value < least)
		set_last_value(&seq, least, -1);
	unlock_sequence(&seq);
}

/* The last id drawn by anybody; 0 when none was. */
int64
es_event_id_last(void)
{
	SequencePage seq;
	int64		last;

	lock_sequence(&seq, AccessShareLock, BUFFER_LOCK_SHARE);
	last = seq.data->last_value - (seq.data->is_called ? 0 : 1);
	unlock_sequence(&seq);

	return last;
}
