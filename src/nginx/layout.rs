//! How the bindings to nginx's structures are made, and how they are checked: a part of build.rs.
//!
//! The bindings of nginx-sys are made by bindgen 0.72, which misplaces bit-fields that follow a
//! field of their own unit's size: in `ngx_http_request_t`, that is, since nginx 1.29.5
//! (rust-bindgen issue 3384). The module uses bindings of its own, made here. And since a wrong
//! place would be a wrong bit in every request, not an error, the C compiler is asked where it
//! has each field, and `bindings.rs` does not compile where Rust has it elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use proc_macro2::{TokenStream, TokenTree};
use syn::{Fields, FnArg, ImplItem, Item, ItemStruct, Type};

/// nginx's structures that the module reads or writes. Those that they hold are checked as well.
const STRUCTURES: [&str; 23] = [
    "ngx_buf_t",
    "ngx_chain_t",
    "ngx_conf_file_t",
    "ngx_connection_t",
    "ngx_event_t",
    "ngx_hash_key_t",
    "ngx_hash_keys_arrays_t",
    "ngx_http_compile_complex_value_t",
    "ngx_http_complex_value_t",
    "ngx_http_core_loc_conf_t",
    "ngx_http_core_main_conf_t",
    "ngx_http_log_ctx_t",
    "ngx_http_phase_t",
    "ngx_http_request_t",
    "ngx_http_variable_t",
    "ngx_http_variable_value_t",
    "ngx_list_part_t",
    "ngx_list_t",
    "ngx_rbtree_node_t",
    "ngx_shm_zone_t",
    "ngx_slab_pool_t",
    "ngx_table_elt_t",
    "ngx_time_t",
];

/// The structures that the `ngx` crate's own functions take, with their fields. They are those of
/// nginx-sys; none of the fields is a bit-field.
const OF_NGX: [(&str, &[&str]); 12] = [
    ("ngx_array_t", &["elts", "nelts", "size", "nalloc", "pool"]),
    ("ngx_command_t", &["name", "type_", "set", "conf", "offset", "post"]),
    (
        "ngx_conf_t",
        &[
            "name",
            "args",
            "cycle",
            "pool",
            "temp_pool",
            "conf_file",
            "log",
            "ctx",
            "module_type",
            "cmd_type",
        ],
    ),
    ("ngx_cycle_t", &["conf_ctx", "pool", "log", "modules", "shared_memory", "old_cycle"]),
    ("ngx_http_conf_ctx_t", &["main_conf", "srv_conf", "loc_conf"]),
    (
        "ngx_http_module_t",
        &[
            "preconfiguration",
            "postconfiguration",
            "create_main_conf",
            "init_main_conf",
            "create_srv_conf",
            "merge_srv_conf",
            "create_loc_conf",
            "merge_loc_conf",
        ],
    ),
    ("ngx_log_t", &["log_level", "data"]),
    (
        "ngx_module_t",
        &[
            "ctx_index",
            "index",
            "name",
            "version",
            "signature",
            "ctx",
            "commands",
            "type_",
            "init_master",
            "init_module",
            "init_process",
            "exit_process",
            "exit_master",
            "spare_hook7",
        ],
    ),
    ("ngx_pool_t", &["cleanup", "log"]),
    ("ngx_pool_cleanup_t", &["handler", "data", "next"]),
    ("ngx_queue_t", &["prev", "next"]),
    ("ngx_str_t", &["len", "data"]),
];

/// Writes `bindings.rs` and `layout.rs`, for `src/nginx/bindings.rs`, where Cargo wants them.
pub fn make() {
    let headers = Headers::of_nginx_sys();
    let out = PathBuf::from(var("OUT_DIR"));
    let bindings = headers.bindings(&OF_NGX.map(|(name, _)| name));
    println!("cargo::rustc-check-cfg=cfg(nginx_pcre)");
    if bindings.contains("fn ngx_http_regex_compile") {
        println!("cargo::rustc-cfg=nginx_pcre");
    }
    let mut layouts = layouts(&bindings);
    layouts.extend(OF_NGX.map(|(name, fields)| Layout {
        path: format!("ngx::ffi::{name}"),
        name: name.to_owned(),
        fields: fields.iter().map(|&field| Field::Plain(field.to_owned())).collect(),
    }));
    let check = headers.check(&layouts, &out);
    for (name, text) in [("bindings.rs", bindings), ("layout.rs", check)] {
        fs::write(out.join(name), text).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

fn var(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// nginx's headers, as one nginx was compiled with them.
pub struct Headers {
    /// Folders to look for headers in, and macros, for the preprocessor.
    arguments: Vec<String>,
    /// The compiler that nginx's own build would use.
    compiler: Command,
}

impl Headers {
    /// Those that the build script of nginx-sys has found.
    fn of_nginx_sys() -> Self {
        let folders: Vec<_> = env::split_paths(&var("DEP_NGINX_INCLUDE")).collect();
        // nginx-sys 0.5.0 prints this one in Cargo's older syntax, by which it has another name.
        let macros = env::var("DEP_NGINX_CFLAGS").unwrap_or_else(|_| var("DEP_NGINX_METADATA"));
        let macros = macros.strip_prefix("cflags=").unwrap_or(&macros);
        let makefile = Path::new(&var("DEP_NGINX_BUILD_DIR")).join("Makefile");
        println!("cargo::rerun-if-changed={}", makefile.display());

        // Configured for this machine, nginx names its compiler. For another one, Cargo's
        // variables do.
        let mut build = cc::Build::new();
        let named = fs::read_to_string(makefile).unwrap_or_default();
        let named = named.lines().find_map(|line| line.strip_prefix("CC =")).map(str::trim);
        match named {
            Some(named) if var("HOST") == var("TARGET") => build.compiler(named),
            _ => &mut build,
        };
        let compiler = build.cargo_metadata(false).get_compiler().to_command();
        Self::new(&folders, macros.split_ascii_whitespace(), compiler)
    }

    /// Headers in these folders, with these arguments for macros.
    pub fn new<'a>(
        folders: &[PathBuf],
        macros: impl Iterator<Item = &'a str>,
        compiler: Command,
    ) -> Self {
        let folders = folders.iter().map(|folder| format!("-I{}", folder.display()));
        Self { arguments: folders.chain(macros.map(str::to_owned)).collect(), compiler }
    }

    /// The bindings, without the structures that are taken from elsewhere.
    pub fn bindings(&self, elsewhere: &[&str]) -> String {
        let mut builder = bindgen::Builder::default()
            .header_contents("nginx.h", INCLUDES)
            .clang_args(&self.arguments)
            .rust_target("1.85".parse().expect("a version of Rust that bindgen knows"))
            .allowlist_item("(ngx|NGX)_.*")
            .blocklist_item("NGX_ALIGNMENT")
            .layout_tests(false)
            .derive_default(true)
            .formatter(bindgen::Formatter::None)
            .use_core()
            .parse_callbacks(Box::new(Elsewhere));
        for name in elsewhere {
            let stem = name.trim_end_matches("_t");
            builder = builder.blocklist_type(format!("{stem}_[st]"));
        }
        builder.generate().expect("bindings to nginx's headers").to_string()
    }

    /// Rust code that compiles only where Rust has each of these fields where the C compiler has
    /// it. `folder` is for what the compiler reads and writes.
    pub fn check(mut self, layouts: &[Layout], folder: &Path) -> String {
        let endian = env::var("CARGO_CFG_TARGET_ENDIAN");
        assert_ne!(endian.as_deref(), Ok("big"), "bits are counted from the lowest");
        let (source, object) = (folder.join("layout.c"), folder.join("layout.o"));
        fs::write(&source, c_source(layouts)).expect("layout.c");
        // Nothing but the layout matters: not that bits overflow when all of them are set.
        self.compiler.args(&self.arguments).args(["-w", "-O0", "-c", "-o"]);
        let done = self.compiler.arg(&object).arg(&source).status();
        assert!(done.is_ok_and(|done| done.success()), "{:?} failed", self.compiler);
        rust_check(layouts, &Object(fs::read(object).expect("layout.o")))
    }
}

const INCLUDES: &str = "#include <ngx_config.h>\n#include <ngx_core.h>\n#include <ngx_http.h>\n";

/// What structures from elsewhere can do: be copied and shown, as all of bindgen's can.
#[derive(Debug)]
struct Elsewhere;

impl bindgen::callbacks::ParseCallbacks for Elsewhere {
    fn blocklisted_type_implements_trait(
        &self,
        _: &str,
        derived: bindgen::callbacks::DeriveTrait,
    ) -> Option<bindgen::callbacks::ImplementsTrait> {
        use bindgen::callbacks::{DeriveTrait, ImplementsTrait};
        match derived {
            DeriveTrait::Copy | DeriveTrait::Debug => Some(ImplementsTrait::Yes),
            _ => Some(ImplementsTrait::No),
        }
    }
}

/// A structure, and the fields whose places matter.
pub struct Layout {
    /// Its path in Rust.
    path: String,
    /// Its name in C.
    name: String,
    fields: Vec<Field>,
}

enum Field {
    Plain(String),
    Bits {
        name: String,
        /// The field of the Rust structure that holds it.
        unit: String,
        /// Within the unit, in bits.
        offset: usize,
        /// In bits.
        width: usize,
    },
}

/// The layouts of [`STRUCTURES`], and of those that they hold, after the bindings' text.
pub fn layouts(bindings: &str) -> Vec<Layout> {
    let file = syn::parse_file(bindings).expect("bindgen writes Rust");
    let mut aliases = BTreeMap::new();
    let mut structures = BTreeMap::new();
    let mut bits: BTreeMap<String, Vec<Field>> = BTreeMap::new();
    for item in &file.items {
        match item {
            Item::Type(alias) => {
                aliases.insert(alias.ident.to_string(), name_of(&alias.ty));
            }
            Item::Struct(structure) => {
                structures.insert(structure.ident.to_string(), structure);
            }
            Item::Impl(block) => {
                let fields = block.items.iter().filter_map(bit_field);
                bits.entry(name_of(&block.self_ty)).or_default().extend(fields);
            }
            _ => {}
        }
    }

    let mut layouts = Vec::new();
    let mut seen = BTreeSet::new();
    let mut to_do: Vec<String> = STRUCTURES.map(str::to_owned).to_vec();
    while let Some(name) = to_do.pop() {
        let tag = aliases.get(&name).filter(|tag| structures.contains_key(*tag)).unwrap_or(&name);
        let Some(structure) = structures.get(tag) else {
            assert!(!STRUCTURES.contains(&&*name), "bindgen has not found {name}");
            continue;
        };
        if !seen.insert(tag.clone()) || !name.starts_with("ngx_") {
            continue;
        }
        let mut fields: Vec<_> = plain_fields(structure).map(Field::Plain).collect();
        fields.extend(bits.remove(tag).unwrap_or_default());
        to_do.extend(structure.fields.iter().map(|field| name_of(&field.ty)));
        layouts.push(Layout { path: name.clone(), name, fields });
    }
    layouts
}

/// The name of a type that has one.
fn name_of(of: &Type) -> String {
    match of {
        Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
        _ => None,
    }
    .unwrap_or_default()
}

fn plain_fields(structure: &ItemStruct) -> impl Iterator<Item = String> + '_ {
    let fields = match &structure.fields {
        Fields::Named(fields) => Some(&fields.named),
        _ => None,
    };
    let names = fields.into_iter().flatten().filter_map(|field| field.ident.as_ref());
    // What begins so is bindgen's own.
    names.map(ToString::to_string).filter(|name| !name.starts_with('_'))
}

/// What a method says of a bit-field, if it is one that reads it.
fn bit_field(item: &ImplItem) -> Option<Field> {
    let ImplItem::Fn(method) = item else { return None };
    let name = method.sig.ident.to_string();
    // Others write, take a pointer, or make a whole unit.
    let [FnArg::Receiver(_)] = &method.sig.inputs.iter().collect::<Vec<_>>()[..] else {
        return None;
    };
    let mut words = Vec::new();
    for statement in &method.block.stmts {
        flatten(quote::ToTokens::to_token_stream(statement), &mut words);
    }
    let unit = words.iter().find(|word| word.starts_with("_bitfield_"))?.clone();
    let mut numbers = words.iter().filter_map(|word| {
        word.strip_suffix("usize").or(word.strip_suffix("u8"))?.parse::<usize>().ok()
    });
    Some(Field::Bits { name, unit, offset: numbers.next()?, width: numbers.next()? })
}

fn flatten(tokens: TokenStream, words: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => flatten(group.stream(), words),
            other => words.push(other.to_string()),
        }
    }
}

/// C's name of a field: bindgen adds an underscore to what is a keyword of Rust.
fn in_c(field: &str) -> &str {
    field
        .strip_suffix('_')
        .filter(|stem| syn::parse_str::<syn::Ident>(stem).is_err())
        .unwrap_or(field)
}

/// Stands before what is to be found in the object file. The number makes it one of its own.
fn mark(number: usize) -> String {
    format!("npm-layout-{number:05}")
}

/// Has a C compiler write down the sizes and places, and a value of each structure in which all
/// bits of one bit-field are set.
fn c_source(layouts: &[Layout]) -> String {
    let mut numbers = String::new();
    let mut values = String::new();
    let mut count = 0;
    for Layout { name, fields, .. } in layouts {
        let _ = write!(numbers, "sizeof({name}),");
        for field in fields {
            match field {
                Field::Plain(field) => {
                    let _ = write!(numbers, "offsetof({name},{}),", in_c(field));
                }
                Field::Bits { name: field, .. } => {
                    count += 1;
                    let (mark, field) = (mark(count), in_c(field));
                    let _ = writeln!(
                        values,
                        "const struct {{ char mark[16]; {name} value; }} bits_{count} = \
                         {{ \"{mark}\", {{ .{field} = ~0 }} }};"
                    );
                }
            }
        }
    }
    format!(
        "{INCLUDES}#include <stddef.h>\n\
         const struct {{ char mark[16]; unsigned long long numbers[]; }} places = \
         {{ \"{}\", {{ {numbers} }} }};\n{values}",
        mark(0)
    )
}

/// What the C compiler has written.
struct Object(Vec<u8>);

impl Object {
    /// What stands behind a mark.
    fn behind(&self, number: usize) -> &[u8] {
        let mark = mark(number);
        let place = self.0.windows(16).position(|bytes| bytes == mark.as_bytes());
        &self.0[place.expect("the compiler writes constants into its object file") + 16..]
    }

    /// The first bit that is set in a value of `size` bytes, and how many are.
    fn bits(&self, number: usize, size: usize) -> (usize, usize) {
        let value = &self.behind(number)[..size];
        let is_set = |bit: &usize| value[bit / 8] >> (bit % 8) & 1 == 1;
        let mut set = (0..size * 8).filter(is_set);
        let first = set.next().expect("a bit-field has bits");
        (first, 1 + set.count())
    }
}

/// The same in Rust, as assertions.
fn rust_check(layouts: &[Layout], object: &Object) -> String {
    let mut places = object
        .behind(0)
        .chunks_exact(8)
        .map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight of them")) as usize);
    let mut next = || places.next().expect("as many as were asked for");
    let mut text = String::new();
    let mut assert = |condition: String, what: String| {
        let _ = writeln!(
            text,
            "const _: () = assert!({condition}, \"{what}: the bindings and the C compiler differ\");"
        );
    };
    let mut count = 0;
    for Layout { path, name, fields } in layouts {
        let size = next();
        assert(format!("size_of::<{path}>() == {size}"), format!("the size of {name}"));
        for field in fields {
            match field {
                Field::Plain(field) => assert(
                    format!("offset_of!({path}, {field}) == {}", next()),
                    format!("{name}.{}", in_c(field)),
                ),
                Field::Bits { name: field, unit, offset, width } => {
                    count += 1;
                    let (first, bits) = object.bits(count, size);
                    assert_eq!(*width, bits, "the width of {name}.{field}");
                    assert(
                        format!("8 * offset_of!({path}, {unit}) + {offset} == {first}"),
                        format!("{name}.{}", in_c(field)),
                    );
                }
            }
        }
    }
    format!("use core::mem::{{offset_of, size_of}};\n{text}")
}
