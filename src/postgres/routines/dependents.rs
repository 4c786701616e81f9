//! The text that asks who runs what: triggers, views, policies, defaults and whatever else calls functions unseen.

/// Asks for all that runs these functions, or uses these tables and views: two lists of numbers.
pub(super) fn dependents(functions: &str, relations: &str) -> String {
    let class = |name: &str| format!("'pg_catalog.{name}'::pg_catalog.regclass");
    let (proc, relation) = (class("pg_proc"), class("pg_class"));
    let mut text = format!(
        "WITH d AS (SELECT classid, objid, false AS related, refobjid AS via \
             FROM pg_catalog.pg_depend WHERE refclassid = {proc} AND refobjid = ANY ({functions}) \
             UNION ALL SELECT classid, objid, true, refobjid FROM pg_catalog.pg_depend \
             WHERE refclassid = {relation} AND refobjid = ANY ({relations}) \
             AND classid IN ({}, {}, {proc})), r AS (\
             SELECT objid AS relation, related, via FROM d WHERE classid = {relation} AND NOT related \
             UNION ALL SELECT indrelid, related, via FROM d JOIN pg_catalog.pg_index \
             ON classid = {relation} AND indexrelid = objid \
             UNION ALL SELECT inhparent, true, inhrelid FROM pg_catalog.pg_inherits \
             WHERE inhrelid = ANY ({relations}) \
             UNION ALL SELECT confrelid, true, conrelid FROM pg_catalog.pg_constraint \
             WHERE contype = 'f' AND conrelid = ANY ({relations})",
        class("pg_rewrite"),
        class("pg_policy"),
    );
    for (catalogue, column) in [
        ("pg_trigger", "tgrelid"),
        ("pg_rewrite", "ev_class"),
        ("pg_policy", "polrelid"),
        ("pg_attrdef", "adrelid"),
        ("pg_constraint", "conrelid"),
    ] {
        text.extend([format!(
            " UNION ALL SELECT o.{column}, related, via FROM d JOIN pg_catalog.{catalogue} AS o \
                 ON classid = {} AND o.oid = objid",
            class(catalogue)
        )]);
    }
    text.extend([format!(
            ") SELECT DISTINCT 'r', c.oid, c.relname, related, via FROM r \
             JOIN pg_catalog.pg_class AS c ON c.oid = relation \
             UNION ALL SELECT 'f', objid, '', related, via FROM d WHERE classid = {proc} \
             UNION ALL SELECT 'd', objid, '', related, via FROM d WHERE classid = {} \
             UNION ALL SELECT 'x', objid, '', related, via FROM d WHERE classid IN ({}, {}, {}, {}, {}) \
             UNION ALL SELECT 'x', objid, '', related, via FROM d JOIN pg_catalog.pg_constraint AS o \
             ON classid = {} AND o.oid = objid AND o.contypid <> 0",
            class("pg_event_trigger"),
            class("pg_operator"),
            class("pg_cast"),
            class("pg_type"),
            class("pg_amproc"),
            class("pg_am"),
            class("pg_constraint"),
        )]);
    text
}
