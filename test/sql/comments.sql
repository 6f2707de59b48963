-- Every object of the extension says what it is: no rows here.
SET client_min_messages = error;
CREATE EXTENSION eventstore;
RESET client_min_messages;

-- Members that have no description of their own: types that belong to a table
-- or array, and triggers, constraints and indexes, which are no members.
WITH member AS (
	SELECT d.classid, d.objid
	FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
	WHERE e.extname = 'eventstore' AND d.deptype = 'e'
		AND NOT (d.classid = 'pg_type'::regclass
				 AND EXISTS (SELECT FROM pg_type t WHERE t.oid = d.objid AND (t.typelem <> 0 OR t.typrelid <> 0)))
)
SELECT pg_describe_object(classid, objid, 0) AS without_comment
FROM member WHERE obj_description(objid, classid::regclass::name) IS NULL
UNION ALL
-- columns of what users see
SELECT pg_describe_object('pg_class'::regclass, c.oid, a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'eventstore'::regnamespace AND c.relkind IN ('r', 'p', 'v')
	AND a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL
UNION ALL
SELECT 'type ' || t.oid::regtype
FROM pg_type t JOIN pg_class c ON c.oid = t.typrelid
WHERE c.relnamespace = 'eventstore'::regnamespace AND c.relkind = 'c'
	AND obj_description(t.oid, 'pg_type') IS NULL
UNION ALL
SELECT 'schema ' || n.nspname
FROM pg_namespace n WHERE n.nspname LIKE 'eventstore%' AND obj_description(n.oid, 'pg_namespace') IS NULL
ORDER BY 1;

DROP EXTENSION eventstore CASCADE;
