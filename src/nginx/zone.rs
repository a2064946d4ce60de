//! The shared zone: the table of [`crate::sso::cache`] in nginx's shared memory, and its lock.

use std::ffi::c_void;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

use ngx::core::Status;
use ngx::http::HttpModule;
use ngx::ngx_string;

use super::bindings::{
    ngx_conf_t, ngx_cycle, ngx_int_t, ngx_pagesize, ngx_shared_memory_add, ngx_shm_zone_t,
    ngx_shmtx_lock, ngx_shmtx_unlock, ngx_slab_calloc, ngx_slab_pool_t,
};
use super::pool::parts;
use super::TokenInject;
use crate::sso::cache::Table;
use crate::sso::marker::MarkerKey;

/// The zone's size where the configuration says nothing of it.
const DEFAULT_SIZE: usize = 1 << 20;

/// A zone that the configuration asked for. nginx maps it before it starts any worker, and hands
/// it on at a reload, where its name and size stay the same.
#[derive(Clone, Copy)]
pub struct Zone(NonNull<ngx_shm_zone_t>);

impl Zone {
    /// Asks nginx for the zone. However often it is asked for, there is one. Its size is still to be
    /// set.
    pub fn request(cf: &mut ngx_conf_t) -> Option<Self> {
        let tag = ptr::from_ref(TokenInject::module()).cast_mut().cast::<c_void>();
        // SAFETY: cf is valid, and the name is static.
        let zone =
            unsafe { ngx_shared_memory_add(cf, &mut ngx_string!("npm_token_inject"), 0, tag) };
        let mut zone = NonNull::new(zone)?;
        // SAFETY: nginx has just returned this zone.
        unsafe { zone.as_mut() }.init = Some(init);
        Some(Self(zone))
    }

    /// The least size of a zone, in bytes, as for nginx's own ones.
    pub fn least_size() -> usize {
        // SAFETY: nginx sets ngx_pagesize before it reads any configuration.
        8 * unsafe { ngx_pagesize }
    }

    /// Sets the zone's size, in bytes, or the default one. Before the configuration has been read, to
    /// its end, there is none.
    pub fn set_size(mut self, size: Option<usize>) {
        // SAFETY: the zone is of the configuration that is being read.
        unsafe { self.0.as_mut() }.shm.size = size.unwrap_or(DEFAULT_SIZE);
    }

    /// Locks the table. Held for a few lines only: other workers spin meanwhile.
    ///
    /// nginx breaks the lock of a worker that was killed (`ngx_unlock_mutexes`).
    pub fn lock(&self) -> LockedTable {
        // SAFETY: a zone outlives the configuration that asked for it, and `init` has run before
        // any request; it leaves the pool's address in shm.addr and the table's in data.
        unsafe {
            let zone = self.0.as_ref();
            let pool = zone.shm.addr.cast::<ngx_slab_pool_t>();
            ngx_shmtx_lock(ptr::addr_of_mut!((*pool).mutex));
            LockedTable { pool, table: Table::at(zone.data.cast()) }
        }
    }
}

/// The table, until dropped.
pub struct LockedTable {
    pool: *mut ngx_slab_pool_t,
    table: *mut Table,
}

impl Deref for LockedTable {
    type Target = Table;

    fn deref(&self) -> &Table {
        // SAFETY: the table is mapped and initialized, and the lock makes it this process's own.
        unsafe { &*self.table }
    }
}

impl DerefMut for LockedTable {
    fn deref_mut(&mut self) -> &mut Table {
        // SAFETY: as above.
        unsafe { &mut *self.table }
    }
}

impl Drop for LockedTable {
    fn drop(&mut self) {
        // SAFETY: locked by this process in Zone::lock.
        unsafe { ngx_shmtx_unlock(ptr::addr_of_mut!((*self.pool).mutex)) }
    }
}

/// Lays the table out in a new zone, or takes over the one of the cycle before.
extern "C" fn init(zone: *mut ngx_shm_zone_t, inherited: *mut c_void) -> ngx_int_t {
    // SAFETY: nginx passes a mapped zone, its slab pool initialized at its beginning; what it hands on
    // is what this function has left in a zone of the same size.
    unsafe {
        let zone = &mut *zone;
        let pool = zone.shm.addr.cast::<ngx_slab_pool_t>();
        let table = match (inherited.is_null(), zone.shm.exists) {
            (false, _) => inherited,
            (true, 0) => new_table(zone, pool).unwrap_or(ptr::null_mut()),
            (true, _) => (*pool).data,
        };
        if table.is_null() {
            return Status::NGX_ERROR.into();
        }
        (*pool).data = table;
        zone.data = table;
        // Leaves the tokens out of core dumps. Where the system cannot do that, they are in there, as
        // what else a worker knows. nginx maps the zone alone (`ngx_shm_alloc`).
        libc::madvise(zone.shm.addr.cast(), zone.shm.size, libc::MADV_DONTDUMP);
    }
    Status::NGX_OK.into()
}

/// Lays a table out that fills a zone, and keeps what the configuration before knew where its zone is of
/// another size.
///
/// # Safety
///
/// The zone is a new one, and the pool is its own.
unsafe fn new_table(zone: &ngx_shm_zone_t, pool: *mut ngx_slab_pool_t) -> Option<*mut c_void> {
    // SAFETY: as promised by the caller. A pool gives all its free pages in one piece, zeroed, and
    // aligned to a page.
    unsafe {
        let places = Table::places_in((*pool).pfree * ngx_pagesize);
        let address = ngx_slab_calloc(pool, Table::size(places));
        if address.is_null() || places == 0 {
            return None;
        }
        let table = &mut *Table::lay_out(address.cast(), places);
        match predecessor(zone) {
            Some(before) => table.take_over(&mut before.lock()),
            None => {
                let mut key = MarkerKey::default();
                getrandom::fill(&mut key).ok()?;
                table.set_marker_key(key);
            }
        }
        Some(address)
    }
}

/// The zone of the configuration before that stands for the same, if this module made it.
///
/// # Safety
///
/// A configuration is being read, in the process that has read the one before.
unsafe fn predecessor(zone: &ngx_shm_zone_t) -> Option<Zone> {
    // SAFETY: nginx has a cycle then, which is the one before; its zones are a list of these, and are
    // mapped as long as it is.
    let mut zones = unsafe {
        parts::<ngx_shm_zone_t>(&*ptr::addr_of!((*ngx_cycle).shared_memory).cast()).flatten()
    };
    let name = zone.shm.name.as_bytes();
    let same = zones.find(|other| {
        other.tag == zone.tag && other.shm.name.as_bytes() == name && !other.data.is_null()
    });
    same.map(|other| Zone(NonNull::from(other)))
}
