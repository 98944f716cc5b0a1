//! Numbers of `linux/netfilter/nf_tables.h` that this client writes and reads.

pub(super) const SUBSYS: u16 = 10 << 8;
pub(super) const BATCH_BEGIN: u16 = 16;
pub(super) const BATCH_END: u16 = 17;

pub(super) const MSG_NEWTABLE: u16 = 0;
pub(super) const MSG_GETTABLE: u16 = 1;
pub(super) const MSG_DELTABLE: u16 = 2;
pub(super) const MSG_NEWCHAIN: u16 = 3;
pub(super) const MSG_GETCHAIN: u16 = 4;
pub(super) const MSG_DELCHAIN: u16 = 5;
pub(super) const MSG_NEWRULE: u16 = 6;
pub(super) const MSG_DELRULE: u16 = 8;
pub(super) const MSG_NEWSET: u16 = 9;
pub(super) const MSG_DELSET: u16 = 11;
pub(super) const MSG_NEWSETELEM: u16 = 12;
pub(super) const MSG_GETSETELEM: u16 = 13;
pub(super) const MSG_DELSETELEM: u16 = 14;

pub(super) const LIST_ELEM: u16 = 1;

pub(super) const TABLE_NAME: u16 = 1;
pub(super) const TABLE_USERDATA: u16 = 6;

pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;
pub(super) const CHAIN_TYPE: u16 = 7;
pub(super) const HOOK_NUM: u16 = 1;
pub(super) const HOOK_PRIORITY: u16 = 2;

pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_EXPRESSIONS: u16 = 4;

pub(super) const SET_TABLE: u16 = 1;
pub(super) const SET_NAME: u16 = 2;
pub(super) const SET_FLAGS: u16 = 3;
pub(super) const SET_KEY_TYPE: u16 = 4;
pub(super) const SET_KEY_LEN: u16 = 5;
pub(super) const SET_DATA_TYPE: u16 = 6;
pub(super) const SET_DATA_LEN: u16 = 7;
pub(super) const SET_DESC: u16 = 9;
pub(super) const SET_ID: u16 = 10;
pub(super) const SET_DESC_SIZE: u16 = 1;
pub(super) const SET_DESC_CONCAT: u16 = 2;
pub(super) const SET_FIELD_LEN: u16 = 1;
pub(super) const SET_F_INTERVAL: u32 = 0x4;
pub(super) const SET_F_MAP: u32 = 0x8;
pub(super) const SET_F_TIMEOUT: u32 = 0x10;
pub(super) const SET_F_EVAL: u32 = 0x20;
pub(super) const SET_F_CONCAT: u32 = 0x80;
pub(super) const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;

pub(super) const ELEMS_TABLE: u16 = 1;
pub(super) const ELEMS_SET: u16 = 2;
pub(super) const ELEMS_ELEMENTS: u16 = 3;
pub(super) const ELEM_KEY: u16 = 1;
pub(super) const ELEM_DATA: u16 = 2;
pub(super) const ELEM_FLAGS: u16 = 3;
pub(super) const ELEM_TIMEOUT: u16 = 4;
pub(super) const ELEM_KEY_END: u16 = 10;
pub(super) const ELEM_F_INTERVAL_END: u32 = 1;

pub(super) const EXPR_NAME: u16 = 1;
pub(super) const EXPR_DATA: u16 = 2;

pub(super) const DATA_VALUE: u16 = 1;
pub(super) const DATA_VERDICT: u16 = 2;
pub(super) const VERDICT_CODE: u16 = 1;
pub(super) const VERDICT_CHAIN: u16 = 2;

/// `NFT_REG_VERDICT`.
pub(super) const REG_VERDICT: u32 = 0;
/// `NFT_REG32_00`: the first of sixteen registers of four bytes.
pub(super) const REG32_00: u32 = 8;
