//! stub
use crate::catalog::ServerId;
/// stub
pub struct Bridge;
impl Bridge {
    /// stub
    pub fn path(id: &ServerId, instance: u16) -> String {
        format!("/{id}/{instance}")
    }
}
