/*
 * eventstore.c
 *		Loading of the library.
 *
 * Loaded by the postmaster (shared_preload_libraries) the library brings
 * shared memory and the launcher; loaded by a session that emits, it does not:
 * everything that writes and reads events works without them.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"

#include "extension/capture.h"
#include "extension/catalog.h"
#include "extension/commit_wake.h"
#include "extension/epoch.h"
#include "extension/outbox.h"
#include "extension/settings.h"
#include "extension/shared_state.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

static void
register_launcher(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "eventstore", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "es_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "eventstore launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "eventstore launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

void
_PG_init(void)
{
	es_settings_init();
	es_catalog_init();
	es_capture_init();
	es_epoch_init();
	es_outbox_init();
	es_commit_wake_init();

	if (process_shared_preload_libraries_in_progress)
	{
		es_shared_state_init();
		register_launcher();
	}
}

PG_FUNCTION_INFO_V1(es_installed);

/*
 * Called at the end of the install script: start the dispatcher when CREATE
 * EXTENSION commits, or say why none will run.
 */
Datum
es_installed(PG_FUNCTION_ARGS)
{
	es_commit_wake_mark();
	if (!es_is_preloaded())
		ereport(WARNING,
				(errmsg("eventstore is not preloaded: events can be emitted, but nothing forwards them"),
				 errhint("Add eventstore to shared_preload_libraries and restart the server.")));
	PG_RETURN_VOID();
}
