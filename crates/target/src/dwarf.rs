//! A [`Layout`] from DWARF: of the binary itself or of its separate debug file.

use std::{borrow::Cow, collections::HashMap};

use gimli::{AttributeValue, DebugInfoOffset, EndianSlice, RunTimeEndian, UnitOffset};
use object::{Object, ObjectSection};

use crate::layout::{ConnectionLayout, Layout, RequestLayout, UpstreamStateLayout};

/// Types and members a damaged or hostile debug file may make us remember.
const ENTRIES_MAX: usize = 4_000_000;

/// A section that is larger, or says it is once unpacked, is not read: a few megabytes can unpack to any size.
const SECTION_MAX: u64 = 256 << 20;

type Slice<'a> = EndianSlice<'a, RunTimeEndian>;

#[derive(Default)]
struct Struct {
    size: u64,
    /// Name, offset in bytes, type.
    members: Vec<(String, u64, Option<DebugInfoOffset>)>,
}

#[derive(Default)]
struct Types {
    structs: HashMap<DebugInfoOffset, Struct>,
    typedefs: HashMap<DebugInfoOffset, DebugInfoOffset>,
    /// Complete structures and typedefs by name.
    names: HashMap<String, DebugInfoOffset>,
}

/// Reads the layout of nginx's structures; `None` where the DWARF does not describe all of them.
///
/// # Errors
/// When the DWARF is damaged.
pub fn layout<'a>(file: &impl Object<'a>) -> Result<Option<Layout>, gimli::Error> {
    let endian = if file.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
    let sections = gimli::DwarfSections::load(|id| {
        let fits = |size: u64| size <= SECTION_MAX;
        let section = file
            .section_by_name(id.name())
            .filter(|s| fits(s.size()) && s.compressed_data().is_ok_and(|data| fits(data.uncompressed_size)));
        Ok::<_, gimli::Error>(section.and_then(|s| s.uncompressed_data().ok()).unwrap_or(Cow::Borrowed(&[])))
    })?;
    let dwarf = sections.borrow(|section| EndianSlice::new(section, endian));
    Ok(read_types(&dwarf)?.layout())
}

fn read_types(dwarf: &gimli::Dwarf<Slice<'_>>) -> Result<Types, gimli::Error> {
    let mut types = Types::default();
    let mut entries_read = 0;
    let mut headers = dwarf.units();
    while let Some(header) = headers.next()? {
        let unit = dwarf.unit(header)?;
        let unit = unit.unit_ref(dwarf);
        let global = |offset: UnitOffset| offset.to_debug_info_offset(&unit.header);
        let mut owner: Option<(isize, DebugInfoOffset)> = None;
        let mut cursor = unit.entries();
        while let Some(entry) = cursor.next_dfs()? {
            let depth = entry.depth();
            entries_read += 1;
            if entries_read > ENTRIES_MAX {
                return Ok(types);
            }
            let Some(here) = global(entry.offset()) else {
                continue;
            };
            let name = match entry.attr_value(gimli::DW_AT_name) {
                Some(value) => Some(unit.attr_string(value)?.to_string_lossy().into_owned()),
                None => None,
            };
            let of = match entry.attr_value(gimli::DW_AT_type) {
                Some(AttributeValue::DebugInfoRef(offset)) => Some(offset),
                Some(value) => {
                    if let AttributeValue::UnitRef(offset) = value {
                        global(offset)
                    } else {
                        None
                    }
                }
                None => None,
            };
            if owner.is_some_and(|(above, _)| depth <= above) {
                owner = None;
            }
            match entry.tag() {
                gimli::DW_TAG_structure_type => {
                    let Some(size) = entry.attr_value(gimli::DW_AT_byte_size).and_then(|v| v.udata_value())
                    else {
                        continue; // a declaration only
                    };
                    types.structs.insert(here, Struct { size, members: Vec::new() });
                    if let Some(name) = name {
                        types.names.entry(name).or_insert(here);
                    }
                    owner = Some((depth, here));
                }
                gimli::DW_TAG_member => {
                    let Some((above, structure)) = owner else { continue };
                    let offset =
                        entry.attr_value(gimli::DW_AT_data_member_location).and_then(|v| v.udata_value());
                    let (Some(name), Some(offset), true) = (name, offset, depth == above + 1) else {
                        continue;
                    };
                    if let Some(structure) = types.structs.get_mut(&structure) {
                        structure.members.push((name, offset, of));
                    }
                }
                gimli::DW_TAG_typedef => {
                    let (Some(name), Some(of)) = (name, of) else {
                        continue;
                    };
                    types.typedefs.insert(here, of);
                    types.names.entry(name).or_insert(here);
                }
                _ => {}
            }
        }
    }
    Ok(types)
}

impl Types {
    fn resolve(&self, mut at: DebugInfoOffset) -> Option<&Struct> {
        for _ in 0..16 {
            if let Some(structure) = self.structs.get(&at) {
                return Some(structure);
            }
            at = *self.typedefs.get(&at)?;
        }
        None
    }

    fn named(&self, names: &[&str]) -> Option<&Struct> {
        names.iter().find_map(|name| self.resolve(*self.names.get(*name)?))
    }

    /// The offset of `path` ("headers_in.host") in a structure.
    fn offset(&self, structure: &Struct, path: &str) -> Option<u16> {
        let mut at = 0_u64;
        let mut structure = Some(structure);
        for part in path.split('.') {
            let (_, offset, of) = structure?.members.iter().find(|(name, _, _)| name == part)?;
            at = at.checked_add(*offset)?;
            structure = of.and_then(|of| self.resolve(of));
        }
        u16::try_from(at).ok()
    }

    fn layout(&self) -> Option<Layout> {
        let request = self.named(&["ngx_http_request_s"])?;
        let connection = self.named(&["ngx_connection_s"])?;
        let table_elt = self.named(&["ngx_table_elt_s", "ngx_table_elt_t"])?;
        let state = self.named(&["ngx_http_upstream_state_t", "ngx_http_upstream_state_s"])?;
        let r = |path| self.offset(request, path);
        let c = |path| self.offset(connection, path);
        let u = |path| self.offset(state, path);
        Some(Layout {
            request: RequestLayout {
                size: u16::try_from(request.size).ok()?,
                connection: r("connection")?,
                upstream_states: r("upstream_states")?,
                host: r("headers_in.host")?,
                user_agent: r("headers_in.user_agent")?,
                server: r("headers_in.server")?,
                status: r("headers_out.status")?,
                start_sec: r("start_sec")?,
                start_msec: r("start_msec")?,
                method: r("method")?,
                http_version: r("http_version")?,
                request_line: r("request_line")?,
                unparsed_uri: r("unparsed_uri")?,
                method_name: r("method_name")?,
                main: r("main")?,
                request_length: r("request_length")?,
                err_status: r("err_status")?,
            },
            connection: ConnectionLayout {
                size: u16::try_from(connection.size).ok()?,
                sent: c("sent")?,
                sockaddr: c("sockaddr")?,
                socklen: c("socklen")?,
                ssl: c("ssl"),
                pool: c("pool")?,
                number: c("number")?,
                requests: c("requests")?,
            },
            table_elt_value: self.offset(table_elt, "value")?,
            upstream_state: UpstreamStateLayout {
                size: u16::try_from(state.size).ok()?,
                status: u("status")?,
                response_time: u("response_time")?,
                connect_time: u("connect_time")?,
                header_time: u("header_time")?,
                bytes_received: u("bytes_received")?,
                peer: u("peer")?,
            },
        })
    }
}

#[cfg(test)]
mod tests;
