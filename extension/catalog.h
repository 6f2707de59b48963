/*
 * catalog.h
 *		The extension's own relations: names, columns, and cached OIDs.
 */
#ifndef ES_CATALOG_H
#define ES_CATALOG_H

#include "access/attnum.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#define ES_EXTENSION "eventstore"
#define ES_SCHEMA "eventstore"
#define ES_INTERNAL_SCHEMA "eventstore_internal"

typedef enum EsRelation
{
	ES_EVENT,
	ES_EVENT_ID,
	ES_SEGMENT,
	ES_PASS,
	ES_EPOCH,
	ES_IDEMPOTENCY,
	ES_SUBSCRIPTION,
	ES_SUBSCRIPTION_STATUS,
	ES_PROGRESS
} EsRelation;

#define ES_NUM_RELATIONS (ES_PROGRESS + 1)

/* Columns, in the order of the install script. */
enum
{
	Anum_event_id = 1,
	Anum_event_xid,
	Anum_event_emitted_at,
	Anum_event_run,
	Anum_event_type,
	Anum_event_key,
	Anum_event_payload,
	Anum_event_headers
};

#define Natts_event Anum_event_headers

enum
{
	Anum_segment_first_position = 1,
	Anum_segment_first_id,
	Anum_segment_event_count,
	Anum_segment_sealed_at
};

#define Natts_segment Anum_segment_sealed_at

enum
{
	Anum_pass_pass = 1,
	Anum_pass_snapshot,
	Anum_pass_next_position,
	Anum_pass_floor_xid,
	Anum_pass_floor_id
};

#define Natts_pass Anum_pass_floor_id

enum
{
	Anum_epoch_first_position = 1,
	Anum_epoch_previous_head,
	Anum_epoch_system_identifier,
	Anum_epoch_timeline,
	Anum_epoch_database,
	Anum_epoch_reason,
	Anum_epoch_started_at
};

#define Natts_epoch Anum_epoch_started_at

enum
{
	Anum_subscription_id = 1,
	Anum_subscription_name,
	Anum_subscription_endpoint,
	Anum_subscription_types,
	Anum_subscription_filter,
	Anum_subscription_owner,
	Anum_subscription_state,
	Anum_subscription_state_reason,
	Anum_subscription_created_at
};

enum
{
	Anum_progress_subscription = 1,
	Anum_progress_step,
	Anum_progress_position,
	Anum_progress_previous,
	Anum_progress_delivered,
	Anum_progress_recorded_at
};

#define Natts_progress Anum_progress_recorded_at

/*
 * A lock on a relation that is kept until the transaction ends, or something in
 * it is rolled back, and when it was taken: in which transaction of this session,
 * and after how many rollbacks.
 */
typedef struct EsKeptLock
{
	Oid			relid;
	LocalTransactionId transaction;
	uint64		rollbacks;
} EsKeptLock;

extern void es_catalog_init(void);
extern void es_lock_for_transaction(Oid relid, LOCKMODE lockmode);
extern bool es_lock_is_kept(const EsKeptLock *lock, Oid relid);
extern void es_note_kept_lock(EsKeptLock *lock, Oid relid);
extern Oid	es_relation_oid(EsRelation which);
extern Oid	es_recorded_event_type(void);
extern Relation es_table_open(EsRelation which, LOCKMODE lockmode);
extern void es_check_not_rewritten(Relation rel, Snapshot snapshot);
extern bool es_is_run_predicate(List *predicate);
extern Relation es_index_open(Relation rel, AttrNumber column, LOCKMODE lockmode);
extern bool es_extension_lock(void);

#endif							/* ES_CATALOG_H */
