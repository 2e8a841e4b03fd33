from celltransfer import refuse_module

refuse_module(__name__)
