/* What comes from outside, what moves between levels, what is saved in 8 bits. */

/* An array of the caller's, into the arena; n: which. Nothing where it is null: then it lies there already. */
static void sp_arrive(const sp_args *a, sp_env *e) {
    const sp_view *w = &sp_views[a->w[0]];
    const float *from = (const float *)e->data[a->n[0]];
    uint32_t b, i;
    if (!from) return;
    for (b = 0; b < SP_BATCH; b++)
        for (i = 0; i < w->count; i++) sp_put(w, b, i, from[b * w->count + i]);
}

static void sp_arrive_integers(const sp_args *a, sp_env *e) {
    const sp_view *w = &sp_views[a->w[0]];
    const int32_t *from = (const int32_t *)e->data[a->n[0]];
    uint32_t b, i;
    if (!from) return;
    for (b = 0; b < SP_BATCH; b++)
        for (i = 0; i < w->count; i++) sp_put(w, b, i, (float)from[b * w->count + i]);
}

/* Bytes as they are; n: their number. */
static void sp_move(const sp_args *a) {
    const sp_part *x = &sp_parts[sp_views[a->r[0]].part], *y = &sp_parts[sp_views[a->w[0]].part];
    memcpy((uint8_t *)sp_base(y->level) + y->offset, sp_base(x->level) + x->offset, (size_t)a->n[0]);
}

/* Codes 1 to 255 around 128, symmetric about zero, and a scale for each n[1] elements; n: scales, elements of one. */
static void sp_pack(const sp_args *a) {
    const sp_view *x = &sp_views[a->r[0]];
    uint32_t c, b, i, inner = (uint32_t)a->n[1];
    for (c = 0; c < (uint32_t)a->n[0]; c++) {
        float most = 0.0f, scale = 1.0f;
        for (b = 0; b < SP_BATCH; b++)
            for (i = 0; i < inner; i++) {
                float v = fabsf(sp_get(x, b, c * inner + i));
                if (v <= 3.40282347e+38f && v > most) most = v; /* finite */
            }
        if (most > 0.0f) {
            scale = most / 127.0f;
            if (scale > 2.6793884e+36f) scale = 2.6793884e+36f; /* of which 127 are finite */
            if (scale == 0.0f) scale = 1.0f;
        }
        sp_put(&sp_views[a->w[1]], 0, c, scale);
        for (b = 0; b < SP_BATCH; b++)
            for (i = 0; i < inner; i++) {
                float q = rintf(sp_get(x, b, c * inner + i) / scale);
                if (q != q) q = 0.0f;
                q = q < -127.0f ? -127.0f : q > 127.0f ? 127.0f : q;
                sp_put(&sp_views[a->w[0]], b, c * inner + i, q + 128.0f);
            }
    }
}
