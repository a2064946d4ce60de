//! The shared zone: the table of [`crate::sso::cache`] in nginx's shared memory, and its lock.

use std::ffi::c_void;
use std::mem::size_of;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

use ngx::core::Status;
use ngx::http::HttpModule;
use ngx::ngx_string;

use super::bindings::{
    ngx_conf_t, ngx_int_t, ngx_pagesize, ngx_shared_memory_add, ngx_shm_zone_t, ngx_shmtx_lock,
    ngx_shmtx_unlock, ngx_slab_calloc, ngx_slab_pool_t,
};
use super::TokenInject;
use crate::sso::cache::Table;
use crate::sso::marker::MarkerKey;

/// A zone that the configuration asked for. nginx maps it before it starts any worker, and hands
/// it on at a reload, for its name and size stay the same.
#[derive(Clone, Copy)]
pub struct Zone(NonNull<ngx_shm_zone_t>);

impl Zone {
    /// Asks nginx for the zone. However often it is asked for, there is one.
    pub fn request(cf: &mut ngx_conf_t) -> Option<Self> {
        // Room for the table, and for the slab allocator's own bookkeeping.
        // SAFETY: nginx sets ngx_pagesize before it reads any configuration.
        let size = size_of::<Table>() + 16 * unsafe { ngx_pagesize };
        let tag = ptr::from_ref(TokenInject::module()).cast_mut().cast::<c_void>();
        // SAFETY: cf is valid, and the name is static.
        let zone =
            unsafe { ngx_shared_memory_add(cf, &mut ngx_string!("npm_token_inject"), size, tag) };
        let mut zone = NonNull::new(zone)?;
        // SAFETY: nginx has just returned this zone.
        unsafe { zone.as_mut() }.init = Some(init);
        Some(Self(zone))
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
            LockedTable { pool, table: zone.data.cast() }
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
    // SAFETY: nginx passes a mapped zone, its slab pool initialized at its beginning; a pool's
    // zeroed memory is a valid, empty table.
    unsafe {
        let pool = (*zone).shm.addr.cast::<ngx_slab_pool_t>();
        let table = match (inherited.is_null(), (*zone).shm.exists) {
            (false, _) => inherited,
            (true, 0) => ngx_slab_calloc(pool, size_of::<Table>()),
            (true, _) => (*pool).data,
        };
        if table.is_null() {
            return Status::NGX_ERROR.into();
        }
        if inherited.is_null() && (*zone).shm.exists == 0 {
            let mut key = MarkerKey::default();
            if getrandom::fill(&mut key).is_err() {
                return Status::NGX_ERROR.into();
            }
            (*table.cast::<Table>()).set_marker_key(key);
        }
        (*pool).data = table;
        (*zone).data = table;
    }
    Status::NGX_OK.into()
}
